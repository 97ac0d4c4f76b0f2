std = "min"
read_globals = { "slurm" }
files["lua/job_submit.lua"] = { globals = { "slurm_job_submit", "slurm_job_modify" } }
files["tests/unit/lua_harness.lua"] = { globals = { "slurm" } }
