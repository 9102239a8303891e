--[[
Slurm's submit plugin for slurmsia: checks the declaration of a job and puts a declared job on a lease while the
daemon is at work.

A job whose comment has "sia:" words gets a begin time LEASE_S seconds away, so that slurmsia can start it in the
shape it chooses. No job is ever held: when the daemon is gone the lease runs out, and Slurm starts the job as it was
submitted. With a stale or missing heartbeat file no job is leased. A mistake in the words is told to the user and the
job is left alone; it is refused only where the site sets REFUSE_MISTAKES. The words: docs/jobs.md.

Install: copy to the folder of slurm.conf, set JobSubmitPlugins=lua. A site with a job_submit.lua of its own calls
slurmsia_submit(job_desc) from its slurm_job_submit and returns what that returns.
--]]

-- Written by slurmsia-daemon in enforce mode: the time of its last sign of life in seconds since 1970, and the lease
-- of its policy file in seconds.
local HEARTBEAT_FILE = "/var/spool/slurmsia/heartbeat"
-- A heartbeat older than this counts as stale.
local FRESH_S = 180
-- How long a job waits for the daemon before Slurm starts it by itself, where the heartbeat file does not say.
local LEASE_S = 600
-- true: a job with a mistake in its words is refused; false: it is told, accepted, and left alone.
local REFUSE_MISTAKES = false

local KEYS = { "gpus", "types", "level", "batch", "local", "unit", "target", "signal", "cpus", "mem", "time",
    "max_gpu_h", "min_efficiency", "weight", "progress" }
local LEVELS = { rigid = true, moldable = true, restartable = true, adaptive = true }
local SIGNALS = { USR1 = true, USR2 = true, HUP = true, INT = true, TERM = true, WINCH = true, URG = true,
    CONT = true }
local LONGEST = 2000

-- The offset behind "sia:" in the comment, or nil. The word stands at the start or after a blank, ';', ',' or '|'.
local function words_at(comment)
    local lower, from = string.lower(comment), 1
    while true do
        local first, last = string.find(lower, "sia:", from, true)
        if first == nil then
            return nil
        end
        if first == 1 or string.match(string.sub(comment, first - 1, first - 1), "[%s;,|]") then
            return last + 1
        end
        from = last + 1
    end
end

local function quoted(comment, at, key)
    local quote, parts, from = string.sub(comment, at, at), {}, at + 1
    while true do
        local close = string.find(comment, quote, from, true)
        if close == nil then
            return nil, nil, key .. "= opens a quote that is never closed"
        end
        parts[#parts + 1] = string.sub(comment, from, close - 1)
        if string.sub(comment, close + 1, close + 1) ~= quote then
            return table.concat(parts, quote), close + 1, nil
        end
        from = close + 2
    end
end

-- A table key -> value, or nil and what is wrong.
local function split(comment, at)
    local values = {}
    local known = {}
    for _, key in ipairs(KEYS) do
        known[key] = true
    end
    if #comment - at + 1 > LONGEST then
        return nil, "the text after sia: is longer than " .. LONGEST .. " characters"
    end
    while true do
        at = string.find(comment, "%S", at)
        if at == nil or string.sub(comment, at, at) == ";" then
            return values, nil
        end
        local key = string.match(comment, "^([%a_]+)=", at)
        if key == nil then
            return nil, "'" .. string.match(comment, "^[^%s;]+", at) .. "' is not a key=value word"
        end
        if not known[key] then
            return nil, "unknown key " .. key .. "=; known keys: " .. table.concat(KEYS, ", ")
        end
        if values[key] ~= nil then
            return nil, key .. "= is said twice"
        end
        at = at + #key + 1
        local value, fault
        if string.match(comment, "^['\"]", at) then
            value, at, fault = quoted(comment, at, key)
            if fault ~= nil then
                return nil, fault
            end
            if at <= #comment and not string.match(comment, "^[%s;]", at) then
                return nil, "there must be a space after the closing quote of " .. key .. "="
            end
        else
            value = string.match(comment, "^[^%s;]*", at)
            at = at + #value
        end
        if value == "" then
            return nil, key .. "= has no value"
        end
        values[key] = value
    end
end

local function count(text, most)
    if text == nil or not string.match(text, "^%d+$") or #text > 15 then
        return nil
    end
    local number = tonumber(text)
    if number < 1 or number > most then
        return nil
    end
    return number
end

local function range(text, separator, most)
    local low, high = string.match(text, "^(%d+)" .. separator .. "(%d+)$")
    if low == nil then
        low, high = text, text
    end
    low, high = count(low, most), count(high, most)
    if low == nil or high == nil or low > high then
        return nil
    end
    return low, high
end

local function positive(text, most)
    if not string.match(text, "^[%d%.]+$") and not string.match(text, "^[%d%.]+[eE][+-]?%d%d?%d?$") then
        return nil
    end
    local number = tonumber(text)
    if number == nil or number <= 0 or number > most then
        return nil
    end
    return number
end

local function signal_is_good(text)
    local name, grace = string.match(text, "^([^@]+)@(.+)$")
    name = string.gsub(string.upper(name or text), "^SIG", "")
    return SIGNALS[name] and (grace == nil or positive(grace, 86400) ~= nil)
end

local function unit_is_good(text)
    if count(text, 1000000) ~= nil then
        return true
    end
    for part in string.gmatch(text .. ",", "([^,]*),") do
        local name, number = string.match(part, "^([%w_.%-%*]+):(%d+)$")
        if name == nil or count(number, 1000000) == nil then
            return false
        end
    end
    return true
end

local CHECKS = {
    gpus = function(text) return range(text, "%-", 1000000) ~= nil, "a range as in gpus=1-8" end,
    types = function(text) return string.match(text, "^[%w_.%-,]+$") ~= nil, "type names separated by commas" end,
    level = function(text) return LEVELS[text] ~= nil, "rigid, moldable, restartable or adaptive" end,
    batch = function(text) return range(text, ":", 1e12) ~= nil, "a range as in batch=256:4096" end,
    ["local"] = function(text) return range(text, ":", 1e12) ~= nil, "a range as in local=16:128" end,
    unit = function(text) return unit_is_good(text), "GPUs per replica as in unit=2 or unit=a100:2,rtx:8" end,
    target = function(text) return positive(text, 1e300) ~= nil, "a number greater than 0" end,
    signal = function(text) return signal_is_good(text), "a signal and seconds of grace as in signal=USR1@60" end,
    cpus = function(text) return count(text, 100000) ~= nil, "CPUs per GPU" end,
    mem = function(text) return string.match(text, "^%d*[1-9]%d*[KkMmGgTt]?[Bb]?$") ~= nil, "memory as in mem=48G" end,
    time = function(text) return text == "run" or text == "total", "run or total" end,
    max_gpu_h = function(text) return positive(text, 1e300) ~= nil, "a number greater than 0" end,
    min_efficiency = function(text) return positive(text, 1) ~= nil, "a number in (0, 1]" end,
    weight = function(text) return positive(text, 1) ~= nil, "a number in (0, 1]" end,
    progress = function(text) return string.find(text, "(", 1, true) ~= nil, "an expression with parentheses" end,
}

-- nil when the words are good (or there are none), else one sentence. The daemon checks again and knows more.
function slurmsia_mistake(comment)
    local at = words_at(comment)
    if at == nil then
        return nil
    end
    local values, fault = split(comment, at)
    if values == nil then
        return fault
    end
    for _, key in ipairs(KEYS) do
        if values[key] ~= nil then
            local good, wanted = CHECKS[key](values[key])
            if not good then
                return key .. "=" .. values[key] .. " must be " .. wanted
            end
        end
    end
    if values.gpus == nil and values.level ~= "rigid" and (values.level or values.batch or values.signal) then
        return "these words need gpus=MIN-MAX beside them"
    end
    if values.level == "adaptive" then
        local low, high = range(values.batch or "1", ":", 1e12)
        if low == high then
            return "level=adaptive needs the range of the total batch beside it, as in batch=256:4096"
        end
    end
    return nil
end

local function heartbeat(now)
    local file = io.open(HEARTBEAT_FILE, "r")
    if file == nil then
        return nil, LEASE_S
    end
    local beat, lease_s = file:read("*n", "*n")
    file:close()
    if lease_s == nil or lease_s < 60 then
        lease_s = LEASE_S
    end
    if beat == nil then
        return nil, lease_s
    end
    return now - beat, lease_s
end

-- Interactive jobs, unsplit arrays, jobs in a reservation and jobs that may not be requeued are not managed.
local function is_leasable(job_desc)
    if job_desc.script == nil or job_desc.script == "" then
        return false
    end
    return job_desc.array_inx == nil and job_desc.reservation == nil and job_desc.requeue ~= 0
end

local function lease(job_desc)
    local now = os.time()
    local age_s, lease_s = heartbeat(now)
    if age_s == nil or age_s > FRESH_S or age_s < -FRESH_S then
        return
    end
    local begin = now + math.floor(lease_s)
    if job_desc.begin_time ~= nil and job_desc.begin_time >= begin then
        return
    end
    job_desc.begin_time = begin
    slurm.log_user("slurmsia: this job waits for its shape; without word from slurmsia it starts by itself in %d min",
        math.floor(lease_s / 60))
end

function slurmsia_submit(job_desc)
    local comment = job_desc.comment
    if comment == nil or words_at(comment) == nil then
        return slurm.SUCCESS
    end
    local mistake = slurmsia_mistake(comment)
    if mistake ~= nil then
        if REFUSE_MISTAKES then
            slurm.log_user("slurmsia: %s; the job was not submitted", mistake)
            return slurm.ERROR
        end
        slurm.log_user("slurmsia: %s; the job is submitted as it stands and not managed", mistake)
        return slurm.SUCCESS
    end
    if is_leasable(job_desc) then
        lease(job_desc)
    end
    return slurm.SUCCESS
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    -- A fault in here must not keep anybody from submitting.
    local fine, answer = pcall(slurmsia_submit, job_desc)
    if not fine then
        slurm.log_error("slurmsia: job_submit.lua: %s", tostring(answer))
        return slurm.SUCCESS
    end
    return answer
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
