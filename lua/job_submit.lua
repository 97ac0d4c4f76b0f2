package.path = "/usr/local/share/slurm-cmeta/?.lua;" .. package.path
local _, cmeta = pcall(require, "cmeta")
function slurm_job_submit(job_desc) local done, rc = pcall(function() return cmeta.ensure(job_desc) end) return done and rc or slurm.SUCCESS end
function slurm_job_modify(job_desc, job) local done, rc = pcall(function() return cmeta.modify(job_desc, job) end) return done and rc or slurm.SUCCESS end
return slurm.SUCCESS
