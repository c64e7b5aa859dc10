-- Which URL comes next, and what was measured as one line of JSON.
-- Arguments, as those of `Paths` in wrk.py: a pattern of paths, how many there are (0: never the same twice), number of
-- the first, and across how many AOIs numbers go if the pattern has a place for a second one, how many
-- teams take turns (0: none, the token is among the headers). A %d in the header X-Request-Id is another number each time.
local pattern, count, number, across, teams = nil, 1, 0, 0, 0
local requests = {}

local function path(n)
  if across > 0 then
    return string.format(pattern, n % across, math.floor(n / across))
  end
  return string.format(pattern, n)
end

local function get(n)
  if teams > 0 then
    wrk.headers["Authorization"] = string.format("Bearer pgw_%043d", n % teams)
  end
  return wrk.format("GET", path(n))
end

function init(args)
  if #args > 0 then
    pattern, count, number = args[1], tonumber(args[2]), tonumber(args[3])
    across, teams = tonumber(args[4]), tonumber(args[5])
    for i = 1, count do
      requests[i] = get(number + i - 1)
    end
    local place = 0
    if count > 0 then
      request = function()
        place = place % count + 1
        return requests[place]
      end
    else
      request = function()
        number = number + 1
        return get(number - 1)
      end
    end
  else
    local only, id = wrk.format("GET", wrk.path), wrk.headers["X-Request-Id"]
    request = function() return only end
    if id then
      request = function()
        number = number + 1
        wrk.headers["X-Request-Id"] = string.format(id, number)
        return wrk.format("GET", wrk.path)
      end
    end
  end
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "longest": %f, "broken": %d, "refused": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    latency.max / 1e6, e.connect + e.read + e.write + e.timeout, e.status))
end
