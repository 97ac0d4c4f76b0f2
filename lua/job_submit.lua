package.path = "/usr/local/share/slurm-cmeta/?.lua;" .. package.path
local found, cmeta = pcall(require, "cmeta")
function slurm_job_submit(job_desc) return found and cmeta.ensure(job_desc) or slurm.SUCCESS end
function slurm_job_modify(job_desc, job) return found and cmeta.modify(job_desc, job) or slurm.SUCCESS end
return slurm.SUCCESS
