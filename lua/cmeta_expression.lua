-- Slurm's constraint language, as far as the controller needs it: what may be added to an expression,
-- and has been. Lua 5.1 to 5.4. The language is described in slurm_cmeta/constraint/grammar.py, which
-- tests/unit/test_lua.py takes for an oracle.

local expressions = {}

expressions.MAX = 1024 -- slurmctld takes no longer one (job_mgr.c, _test_job_desc_fields)
local MAX_ALTERNATIVES = 64 -- in brackets (MAX_FEATURES of slurmctld)
local NAME = "^[%w_.=+:/@~%%%-]+"

local function split(text, separator)
   local parts, start = {}, 1
   while true do
      local at = string.find(text, separator, start, true)
      parts[#parts + 1] = string.sub(text, start, at and at - 1 or nil)
      if not at then
         return parts
      end
      start = at + 1
   end
end

local OPERATORS, AND, ALTERNATIVE = "^[&,|]$", "^[&,]$", "^|$"

-- The reader of expressions: each function returns the position behind what it read, or nil.
-- skip_sequence reads parts with operators between them, up to `close` ("": the end of the text), and
-- returns their number as well.
local function skip_sequence(text, at, skip_part, operators, close)
   local count = 0
   while true do
      at = skip_part(text, at)
      if not at then
         return nil
      end
      count = count + 1
      local next_one = string.sub(text, at, at)
      at = at + 1
      if next_one == close then
         return at, count
      elseif not string.find(next_one, operators) then
         return nil
      end
   end
end

local function skip_name(text, at)
   local _, last = string.find(text, NAME, at)
   return last and last + 1
end

local function skip_item(text, at)
   if string.sub(text, at, at) == "(" then
      return (skip_sequence(text, at + 1, skip_name, OPERATORS, ")"))
   end
   return skip_name(text, at)
end

local function skip_part(text, at)
   if string.sub(text, at, at) ~= "[" then
      return skip_item(text, at)
   end
   local behind, count = skip_sequence(text, at + 1, skip_item, ALTERNATIVE, "]")
   return behind and count > 1 and count <= MAX_ALTERNATIVES and behind or nil
end

-- True for names joined by `&`, `,` and `|`.
local function is_plain(text)
   return skip_sequence(text, 1, skip_name, OPERATORS, "") ~= nil
end

-- True for what all releases of Slurm read alike as a condition on each node (grammar.py): names, and
-- names in parentheses; one pair of brackets that holds alternatives, where nothing but AND joins the
-- rest. Nothing with a count: beside a count slurmctld enforces nothing.
local function is_condition(text)
   local _, brackets = string.gsub(text, "%[", "")
   return brackets < 2 and skip_sequence(text, 1, skip_part, brackets == 1 and AND or OPERATORS, "") ~= nil
end

-- The expression with the operators inside of parentheses and brackets replaced, so that those that are
-- left are at its top.
local function top_of(expression)
   local function hide(group)
      return (string.gsub(group, "[&,|]", ";"))
   end
   return (string.gsub(string.gsub(expression, "%b()", hide), "%b[]", hide))
end

-- True for `a`, `a&b`, `a&(b|c)&d`: the only forms that the client adds. `|` stands in parentheses
-- alone, so nothing of it can undo an AND with what stands before.
function expressions.is_addition(text)
   for _, part in ipairs(split(text, "&")) do
      local group = string.match(part, "^%((.*)%)$")
      for _, name in ipairs(split(group or part, group and "|" or "&")) do
         if not string.match(name, NAME .. "$") then
            return false
         end
      end
   end
   return true
end

-- What `expression` adds to `before` by AND, so that it allows no node that `before` does not allow;
-- nil when it is anything else. Slurm reads from left to right and knows no precedence: an AND behind an
-- expression is an AND with all of it. (Where NodeFeaturesPlugins make AND bind closer than OR, it is one
-- with the last alternative: no wider either.)
function expressions.addition(before, expression)
   if #expression > expressions.MAX then
      return nil
   end
   if before == "" then
      return expressions.is_addition(expression) and expression or nil
   end
   local kept = before .. "&"
   if string.sub(expression, 1, #kept) ~= kept then
      kept = "(" .. before .. ")&"
      if not is_plain(before) or string.sub(expression, 1, #kept) ~= kept then
         return nil
      end
   end
   local added = string.sub(expression, #kept + 1)
   return is_condition(before) and expressions.is_addition(added) and added or nil
end

-- The parts of `required` that are no terms of an expression that nothing but AND joins at its top.
local function missing_parts(expression, required)
   local top, missing = top_of(expression), {}
   if string.find(top, "|", 1, true) then
      return split(required, "&")
   end
   local there = "&" .. string.gsub(top, ",", "&") .. "&"
   for _, part in ipairs(split(required, "&")) do
      if not string.find(there, "&" .. top_of(part) .. "&", 1, true) then
         missing[#missing + 1] = part
      end
   end
   return missing
end

-- True when an expression demands of every node, by its text, what an addition does.
function expressions.demands(expression, required)
   if not expressions.is_addition(required) or not is_condition(expression) then
      return false
   end
   return #missing_parts(expression, required) == 0
      or string.sub(expression, -#required - 1) == "&" .. required
end

-- `expression` with the addition `required` by AND; nil where no expression can say it.
function expressions.with_required(expression, required)
   if expression == "" then
      return required
   elseif expressions.demands(expression, required) then
      return expression
   elseif not is_condition(expression) then
      return nil
   end
   local missing = missing_parts(expression, required)
   if is_plain(expression) and string.find(expression, "|", 1, true) then
      expression = "(" .. expression .. ")"
   end
   local whole = expression .. "&" .. table.concat(missing, "&")
   return #whole <= expressions.MAX and whole or nil
end

return expressions
