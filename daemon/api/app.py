"""The routes of the API under ``/v1``. Each answers from the last published state or from the store; none asks Slurm.

Operators' wishes go to the loop and come back as the next state; this process changes nothing itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from slurmsia import __version__
from slurmsia.cluster import JobState
from slurmsia.config import Config
from slurmsia.declaration import DeclarationError, parse
from slurmsia.history import JobKind
from slurmsia.models.estimator import Estimator

from ..control import Wish
from . import estimate, posted, schema, views
from .callers import Caller, CallerCheck
from .gate import Gate
from .limits import RateLimit
from .problems import Problem, problem_response
from .records import Records
from .state import Holder, View

Json = dict[str, Any]
JobIdPath = Annotated[str, Path(pattern=schema.JOB_ID, description="Slurm's job id; `A_T` for an array task.")]
List = Annotated[str, Query(max_length=2000, description="Comma-separated.")]
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": words,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
    for code, words in (
        (400, "The request cannot be read."),
        (401, "No good credential."),
        (403, "For operators, or for the job's owner."),
        (404, "Not there, or private."),
        (405, "This path does not know the method."),
        (409, "It disagrees with what Slurm or an earlier report says."),
        (408, "The body did not come."),
        (413, "Too large."),
        (422, "A parameter is out of range."),
        (429, "Too many requests."),
        (500, "The API failed."),
        (503, "Not known yet, or the store or munged is away."),
    )
}
_CACHED = 512


class Api:
    """Everything that the routes work with. ``wish`` hands a wish to the loop: ``False`` when it cannot."""

    def __init__(
        self,
        config: Config,
        holder: Holder,
        records: Records,
        check: CallerCheck,
        wish: Callable[[Wish], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.holder = holder
        self.records = records
        self.check = check
        self.wish = wish
        self.clock = clock
        self.posted = posted.Posted(config)
        self._cache: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def answer(self, view: View, body: Json) -> Response:
        return Response(self._bytes(view, body), media_type="application/json")

    def _bytes(self, view: View, body: Json) -> bytes:
        head = {"schema": schema.VERSION, "now_s": self.clock(), "published_s": view.state.published_s}
        return json.dumps({**head, **body}, separators=(",", ":"), allow_nan=False, default=_finite).encode()

    def remembered(self, request: Request, caller: Caller, view: View, make: Callable[[], Json]) -> Response:
        """The answer, made once a second for each caller, state and query."""
        key = (view.number, int(self.clock()), caller.user_id, caller.by, request.url.path, request.url.query)
        body = self._cache.get(key)
        if body is None:
            body = self._bytes(view, make())
            self._cache[key] = body
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return Response(body, media_type="application/json")


def _finite(value: object) -> Any:
    raise TypeError(f"no JSON for {value!r}")


def caller_of(request: Request) -> Caller:
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


def documented(model: type[schema.Part]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses of a route that answers with ``model``."""
    return {200: {"model": model}, **_ERRORS}


def make_app(api: Api) -> Any:
    """The ASGI application, gate included."""
    app = FastAPI(
        title="slurmsia",
        version=f"{schema.VERSION}",
        summary=f"What slurmsia {__version__} sees, decides and does; answers are versioned by `schema`.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _reading(app, api)
    _recorded(app, api)
    _acting(app, api)
    _open(app, api)

    @app.exception_handler(Problem)
    async def say(_: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_response(422, f"{where}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: "There is nothing at this path; /v1/openapi.json lists what there is."}
        return problem_response(
            error.status_code, known.get(error.status_code, f"{error.detail}."), dict(error.headers or {})
        )

    original = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            document = original()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemDocument"] = schema.ProblemDocument.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for path, methods in document["paths"].items():
                for method in methods.values():
                    if path not in ("/v1/healthz", "/v1/readyz", "/v1/metrics"):
                        method["security"] = [{"munge": []}, {"token": []}]
            document["components"]["securitySchemes"] = {
                "munge": {"type": "apiKey", "in": "header", "name": "Authorization",
                          "description": "`MUNGE <credential>` over sha256(method, target, body) in hexadecimal."},
                "token": {"type": "http", "scheme": "bearer", "description": "`scontrol token`"},
            }  # fmt: skip
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    section = api.config.api
    return Gate(
        app,  # type: ignore[arg-type]
        api.check,
        RateLimit(section.requests_per_s),
        int(section.largest_request_kb * 1000),
    )


def _reading(app: FastAPI, api: Api) -> None:
    """Answers from the published state."""
    names = api.check.names

    @app.get("/v1/status", responses=documented(schema.StatusAnswer), response_class=Response)
    async def status(request: Request) -> Response:
        """The cluster at a glance, and the caller's own jobs."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: views.status(view, caller, names))

    @app.get("/v1/jobs", responses=documented(schema.JobsAnswer), response_class=Response)
    async def jobs(
        request: Request,
        user: List = "",
        partition: List = "",
        state: List = "",
        job: List = "",
        account: List = "",
        qos: List = "",
        name: List = "",
        managed: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 10_000,
    ) -> Response:
        """Live jobs with GPUs that the caller may see; filters as squeue's."""
        view, caller = api.holder.view(), caller_of(request)
        given = {
            "user": user, "partition": partition, "state": state, "job_id": job, "account": account, "qos": qos,
            "name": name,
        }  # fmt: skip
        wanted = {
            key: frozenset(part.strip() for part in value.split(",") if part.strip())
            for key, value in given.items()
            if value.strip(", ")
        }
        if managed is not None:
            wanted["managed"] = frozenset({str(managed)})
        return api.remembered(request, caller, view, lambda: views.jobs(view, caller, names, wanted, limit))

    @app.get("/v1/jobs/{job_id}", responses=documented(schema.JobAnswer), response_class=Response)
    def job(request: Request, job_id: JobIdPath) -> Response:
        """One job: goodput by type and size, moves and their cost, what it gained, advice."""
        view, caller = api.holder.view(), caller_of(request)
        found = views.visible_job(view, caller, job_id)

        def make() -> Json:
            past = api.records.past_of(job_id)
            return {**views.job(view, found, names), "moves": past["moves"], "runs": past["runs"]}

        return api.remembered(request, caller, view, make)

    @app.get("/v1/jobs/{job_id}/why", responses=documented(schema.WhyAnswer), response_class=Response)
    def why(request: Request, job_id: JobIdPath) -> Response:
        """Why the job is where it is, what else was considered, and what would change it."""
        view, caller = api.holder.view(), caller_of(request)
        found = views.visible_job(view, caller, job_id)
        return api.remembered(
            request, caller, view,
            lambda: {**views.why(view, found, names), "before": api.records.past_of(job_id)["before"]},
        )  # fmt: skip

    @app.get("/v1/gpus", responses=documented(schema.GpusAnswer), response_class=Response)
    async def gpus(request: Request) -> Response:
        """GPUs by type and by node."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: views.gpus(view, caller, names))

    @app.get("/v1/plan", responses=documented(schema.PlanAnswer), response_class=Response)
    async def plan(request: Request, all: bool = False) -> Response:
        """What the last round decided; with `all` the jobs that stay as they are, too."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: views.plan(view, caller, all))

    @app.get("/v1/models", responses=documented(schema.ModelsAnswer), response_class=Response)
    async def models(request: Request, job: Annotated[str, Query(pattern=schema.JOB_ID + "|^$")] = "") -> Response:
        """What is known of the speed of jobs, by type, and where it comes from."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: views.models(view, caller, names, job))

    @app.get("/v1/policy", responses=documented(schema.PolicyAnswer), response_class=Response)
    async def policy(request: Request) -> Response:
        """The policy file in force."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: views.policy(view, caller))

    @app.get("/v1/jobs/{job_id}/estimate", responses=documented(schema.EstimateAnswer), response_class=Response)
    def estimate_job(request: Request, job_id: JobIdPath) -> Response:
        """When the job would start and end on each type and size, as a range."""
        view, caller = api.holder.view(), caller_of(request)
        found = views.visible_job(view, caller, job_id)
        model, declared = view.state.models.get(job_id), view.declaration(found)
        if model is None or declared is None:
            raise Problem(404, f"Nothing is known of the speed of job {job_id}: it has no sia: words.")
        low, high = declared.min_gpus, max(declared.max_gpus, found.request.gpus)
        return api.answer(view, estimate.estimate(view, model, found, low, high, declared.types))

    @app.post("/v1/estimate", responses=documented(schema.EstimateAnswer), response_class=Response)
    def estimate_script(request: Request, wanted: schema.EstimateRequest) -> Response:
        """The same for a script that was not submitted yet, from the history of similar jobs of the caller."""
        view, caller = api.holder.view(), caller_of(request)
        if view.snapshot is None:
            raise Problem(503, "Slurm has not been read yet; ask again after the first round.")
        types = frozenset(kind.name for kind in view.snapshot.gpu_types)
        try:
            declared = parse(wanted.comment, known_types=types)
        except DeclarationError as error:
            raise Problem(422, f"The sia: words cannot be read: {error.sentence}.") from None
        if declared is None:
            declared = parse(f"sia: gpus={wanted.gpus}-{wanted.gpus}")
            assert declared is not None
        model = Estimator(api.config.models.use_shipped).model(
            "0", None, declared, JobKind(caller.user_id, wanted.script_hash, wanted.name), view.snapshot.gpu_types,
            api.records.similar_source(), view.snapshot.taken_s,
        )  # fmt: skip
        return api.answer(
            view, estimate.estimate(view, model, None, declared.min_gpus, declared.max_gpus, declared.types)
        )


def _recorded(app: FastAPI, api: Api) -> None:
    """Answers from the store."""

    @app.get("/v1/rounds", responses=documented(schema.RoundsAnswer), response_class=Response)
    def rounds(
        request: Request,
        start_s: Annotated[float | None, Query(ge=0, le=1e11)] = None,
        end_s: Annotated[float | None, Query(ge=0, le=1e11)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> Response:
        """Rounds, newest first."""
        view = api.holder.view()
        return api.remembered(request, caller_of(request), view, lambda: api.records.rounds(start_s, end_s, limit))

    @app.get("/v1/rounds/{round_id}", responses=documented(schema.RoundAnswer), response_class=Response)
    def one_round(request: Request, round_id: Annotated[int, Path(ge=0, le=2**62)]) -> Response:
        """One round and what it decided about the jobs that the caller may see."""
        view, caller = api.holder.view(), caller_of(request)
        return api.remembered(request, caller, view, lambda: api.records.round(view, caller, round_id))

    @app.get("/v1/history", responses=documented(schema.HistoryAnswer), response_class=Response)
    def history(
        request: Request,
        job: Annotated[str, Query(pattern=schema.JOB_ID + "|^$")] = "",
        hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0,
    ) -> Response:
        """Moves of the last hours; of one job also its runs and verdicts, after its end too."""
        view, caller = api.holder.view(), caller_of(request)
        end_s = max(view.snapshot.taken_s if view.snapshot is not None else 0.0, view.state.published_s) + 60.0
        start_s = min(view.snapshot.taken_s if view.snapshot is not None else end_s, end_s) - hours * 3600.0
        return api.remembered(request, caller, view, lambda: api.records.history(view, caller, job, start_s, end_s))


def _acting(app: FastAPI, api: Api) -> None:
    """Operators' wishes, and reports of jobs."""

    def wish(request: Request, kind: str, reason: str, job_id: str = "") -> Response:
        caller = caller_of(request)
        if not caller.operator:
            raise Problem(
                403,
                f"{kind} is for operators (root, SlurmUser, api.operator_users and api.operator_groups); "
                f"you are {caller.name}.",
            )
        view = api.holder.view()
        if job_id and job_id not in view.jobs:
            raise Problem(404, f"There is no job {job_id}.")
        if not api.wish(Wish(kind, caller.name, caller.user_id, job_id, reason)):
            raise Problem(503, "The daemon does not take wishes now; is it running?")
        what = f"{kind} of job {job_id}" if job_id else kind
        body = {
            "schema": schema.VERSION,
            "sentence": f"{what} was handed to the daemon and written down as {caller.name}'s.",
        }
        return Response(json.dumps(body), 202, media_type="application/json")

    taken = {202: {"model": schema.Accepted, "description": "Handed to the daemon."}, **_ERRORS}

    def cluster_wish(kind: str, words: str) -> None:
        async def route(request: Request, given: schema.WishRequest | None = None) -> Response:
            return wish(request, kind, given.reason if given is not None else "")

        app.post(
            f"/v1/{kind}", status_code=202, responses=taken, response_class=Response, name=kind, description=words
        )(route)

    def job_wish(kind: str, words: str) -> None:
        async def route(request: Request, job_id: JobIdPath, given: schema.WishRequest | None = None) -> Response:
            return wish(request, kind, given.reason if given is not None else "", job_id)

        app.post(
            f"/v1/jobs/{{job_id}}/{kind}", status_code=202, responses=taken, response_class=Response,
            name=kind, description=words,
        )(route)  # fmt: skip

    cluster_wish("pause", "Write nothing to Slurm until resumed; outlives the daemon.")
    cluster_wish("resume", "End a pause.")
    cluster_wish("reconfigure", "Read the policy file again.")
    job_wish("pin", "Never move the job again in this run.")
    job_wish("unpin", "Let the job move again.")
    job_wish("release", "Drop the job's move, end its lease and leave it alone.")

    @app.post(
        "/v1/jobs/{job_id}/reports",
        status_code=202,
        responses=taken,
        response_class=Response,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema.REPORT_LINE}},
            }
        },
    )
    async def reports(request: Request, job_id: JobIdPath) -> Response:
        """One report of a running job by its owner: the body is a line as the spool takes it."""
        view, caller = api.holder.view(), caller_of(request)
        job = view.jobs.get(job_id)
        if job is None or not view.sees(caller, job.user_id):
            raise Problem(404, f"There is no job {job_id} that you may see.")
        if job.user_id != caller.user_id:
            raise Problem(403, f"Job {job_id} belongs to somebody else; only its owner reports for it.")
        if job.state is not JobState.RUNNING:
            raise Problem(404, f"Job {job_id} is not running, so it has nothing to report.")
        line = await request.body()
        await asyncio.to_thread(api.posted.take, job, line, api.clock())
        body = {"schema": schema.VERSION, "sentence": f"The report of job {job_id} was taken."}
        return Response(json.dumps(body), 202, media_type="application/json")


def _open(app: FastAPI, api: Api) -> None:
    """Answers for machines; no caller is asked for."""

    @app.get("/v1/healthz", responses={200: {"model": schema.Health}, 429: _ERRORS[429]}, response_class=Response)
    async def healthz() -> Response:
        """This process answers."""
        return Response(
            json.dumps({"schema": schema.VERSION, "ok": True, "sentence": "The API answers."}),
            media_type="application/json",
        )

    @app.get(
        "/v1/readyz",
        responses={200: {"model": schema.Health}, 503: {"model": schema.Health}, 429: _ERRORS[429]},
        response_class=Response,
    )
    async def readyz() -> Response:
        """Slurm was read, and the last state is not old."""
        view = api.holder.view()
        age = api.clock() - view.state.published_s
        oldest = 3 * max(60.0, api.config.policy.round_s)
        ok = (view.snapshot is not None or view.state.mode == "standby") and age < oldest
        sentence = view.state.sentence if ok or view.snapshot is None else f"The last state is {age:.0f} s old."
        return Response(
            json.dumps({"schema": schema.VERSION, "ok": ok, "sentence": sentence}),
            200 if ok else 503,
            media_type="application/json",
        )

    @app.get(
        "/v1/metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 429: _ERRORS[429]},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Prometheus metrics of the daemon."""
        return Response(api.holder.view().state.metrics, media_type="text/plain; version=0.0.4")
