-- Runs job_submit.lua again and again, with an error at another line each time: at every line of the
-- modules that is executed when they are loaded, when a job is submitted, and when it is changed.
-- Arguments: LUA-DIRECTORY SNAPSHOT. Prints a line for each fault that a user would see, then "lines N".
slurm = { SUCCESS = 0, ERROR = -1, ESLURM_INVALID_FEATURE = 2029 }
function slurm.log_info() end
function slurm.log_user() end
slurm.log_error = slurm.log_info

local directory = arg[1]
local stub = io.open(directory .. "/job_submit.lua"):read("*a")
stub = string.gsub(stub, "/usr/local/share/slurm%-cmeta", (string.gsub(directory, "%%", "%%%%")))
local MODULES = { "cmeta", "cmeta_expression", "cmeta_log", "cmeta_nodes" }
local path = package.path

local function fresh()
   for _, name in ipairs(MODULES) do
      package.loaded[name] = nil
   end
   package.path = path
end

local JOBS = {
   { features = "a|b", min_mem_per_node = 5, env = { "CMETA_VERDICT=match", "CMETA_CONSTRAINT=(a|b)&zen4", "CMETA_PREFER=(a|b)&zen4&x",
      "CMETA_EXCLUDE=n[1-2]", "CMETA_GRES=gpu:1", "CMETA_MEMORY=100", "CMETA_REQUIRED=zen4", "CMETA_IMAGE=/i.sif" } },
   { env = { "CMETA_VERDICT=fault" } },
   { env = {} },
   { features = "c", record = { features = "a&zen4", admin_comment = "cmeta requires zen4; cmeta excludes n1" }, env = {} },
}

local FIELDS = { "features", "prefer", "exc_nodes", "gres", "min_mem_per_node", "admin_comment" }

local function described(fields)
   local parts = {}
   for _, name in ipairs(FIELDS) do
      parts[#parts + 1] = fields[name] == "" and "nil" or tostring(fields[name])
   end
   return table.concat(parts, " ")
end

-- One submission or change; an error is raised when `line` of `module` is reached.
local function run(wanted, module, line)
   fresh()
   local fields = { container = "/i.sif", environment = {}, spank_job_env = {}, spank_job_env_size = #wanted.env }
   for name, value in pairs(wanted) do
      if name ~= "env" and name ~= "record" then
         fields[name] = value
      end
   end
   for i, entry in ipairs(wanted.env) do
      fields.spank_job_env[i - 1] = entry
   end
   local before, hit = described(fields), false
   local load_text = loadstring or load
   debug.sethook(function(_, at)
      if not hit and at == line and string.find(debug.getinfo(2, "S").source, "/" .. module .. ".lua", 1, true) then
         hit = true
         error("injected")
      end
   end, "l")
   local loaded, trouble = pcall(load_text(stub, "@stub"))
   local called, rc = true, nil
   if loaded then
      if wanted.record then
         called, rc = pcall(slurm_job_modify, fields, wanted.record)
      else
         called, rc = pcall(slurm_job_submit, fields)
      end
   end
   debug.sethook()
   return { hit = hit, ok = loaded and called, rc = rc, before = before, after = described(fields), why = tostring(trouble or rc) }
end

local count = 0
for number, wanted in ipairs(JOBS) do
   local whole = run(wanted, "none", 0)
   for _, module in ipairs(MODULES) do
      local line = 0
      for _ in io.lines(directory .. "/" .. module .. ".lua") do
         line = line + 1
         local done = run(wanted, module, line)
         if done.hit then
            count = count + 1
            local kept = done.after == done.before or (done.after == whole.after and done.rc == whole.rc)
            if not done.ok or not kept or not (done.rc == slurm.SUCCESS or done.rc == whole.rc) then
               print(string.format("job %d, %s.lua:%d: rc %s, %s -> %s", number, module, line, done.why, done.before, done.after))
            end
         end
      end
   end
   print("whole " .. number .. " " .. tostring(whole.rc) .. " " .. whole.after)
end
print("lines " .. count)
