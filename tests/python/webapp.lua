-- What wrk counted, as one line of JSON: its own errors, and the answers by status and body.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  answers = {}
end

function response(status, _, body)
  local answer = status .. " " .. body:sub(1, 60):gsub("[%c\"\\]", "")
  answers[answer] = (answers[answer] or 0) + 1
end

function done(summary, latency)
  local all, lines = {}, {}
  for _, thread in ipairs(threads) do
    for answer, count in pairs(thread:get("answers")) do
      all[answer] = (all[answer] or 0) + count
    end
  end
  for answer, count in pairs(all) do
    table.insert(lines, string.format('"%s": %d', answer, count))
  end
  local errors = summary.errors
  print(string.format(
    'counted {"requests": %d, "seconds": %.1f, "connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d, "median_ms": %.1f, "slowest_ms": %.0f, "answers": {%s}}',
    summary.requests, summary.duration / 1e6, errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    latency:percentile(50) / 1e3, latency.max / 1e3, table.concat(lines, ", ")
  ))
end
