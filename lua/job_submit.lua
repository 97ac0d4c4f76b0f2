package.path = "/usr/local/share/slurm-cmeta/?.lua;" .. package.path
local _, cmeta = pcall(require, "cmeta")
function slurm_job_submit(job_desc) local done, result = pcall(cmeta.ensure, job_desc) return done and result or slurm.SUCCESS end
function slurm_job_modify(job_desc, job) local done, result = pcall(cmeta.modify, job_desc, job) return done and result or slurm.SUCCESS end
return slurm.SUCCESS
