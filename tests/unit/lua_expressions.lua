-- Answers questions about expressions: a line of input is `narrows` BEFORE EXPRESSION, `require` or
-- `demands` EXPRESSION REQUIRED, with tabs between them; a line of output is the answer.
-- Argument: LUA-DIRECTORY
package.path = arg[1] .. "/?.lua;" .. package.path
local expressions = require("cmeta_expression")
for line in io.lines() do
   local what, first, second = string.match(line, "^(.-)\t(.-)\t(.*)$")
   if what == "narrows" then
      print(expressions.addition(first, second) ~= nil)
   elseif what == "demands" then
      print(expressions.demands(first, second))
   else
      print(tostring(expressions.with_required(first, second)))
   end
end
