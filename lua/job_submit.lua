package.path = "/usr/local/share/slurm-cmeta/?.lua;" .. package.path
local _, cmeta = pcall(require, "cmeta")
if type(cmeta) ~= "table" then slurm.log_error("%s", "cmeta: " .. tostring(cmeta)) cmeta = {} end
function slurm_job_submit(job_desc) local ok, rc = pcall(cmeta.ensure, job_desc) return ok and rc or slurm.SUCCESS end
function slurm_job_modify(desc, job) local ok, rc = pcall(cmeta.modify, desc, job) return ok and rc or slurm.SUCCESS end
return slurm.SUCCESS
