/*
 * Lets unmodified pyslurm 25.11 compile against the headers of Slurm 26.05 (test cluster only).
 *
 * 26.05 addresses a job by slurm_step_id_t where 25.11 took a plain job id; its header carries wrappers that accept
 * both, switched on by SLURM_BACKWARD_COMPAT. What they do not cover is one renamed function and one error constant
 * that 26.05 dropped. Never use this pairing in production: private structures differ, and some calls crash.
 */
#define SLURM_BACKWARD_COMPAT 1
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>

#define slurm_free_ctl_conf slurm_free_conf
/* Its value in 25.11; only pyslurm's table of error names reads it. */
#define ESLURM_ERROR_ON_DESC_TO_RECORD_COPY 2007
