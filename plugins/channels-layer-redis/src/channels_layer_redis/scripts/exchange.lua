-- Sends, settles and takes: any number of steps on keys of one slot, in one go.
--
-- ARGV: prefix, expiry (ms), lease (ms), most attempts, dead letters kept, then the steps, each a letter and its
-- arguments; a number called "key" is an index into KEYS. Every step leaves one character in the first reply, or as many
-- as it says below.
--   U key(d) number                               repeated: where this number was done before, say what it said
--   B                                             a turn begins: forget that a send was refused
--   S key cap leased bytes ttl number (meta body)...   sends to a channel; for each 1 sent, 0 full
--   I key(p) key(i) mark field cap bytes number (size header body)...   sends to a process's inbox; for each 1 sent,
--     0 full, 2 gone
--   G key(r) key(o) key(k) group lapse cap bytes meta size body   send to the members of a group
--   D key number (ref first sends)...             done: for each 1 settled, 0 not leased, - where one of its sends was
--     refused: those steps that begin at the place first
--   X key ref reason                              given up; 1 settled, 0 not leased, - the turn was refused
--   R key ref begun leased meta body ttl          back to the front
--   Q key ref leased meta body ttl                to the back
--   Y key id ttl                                  a dead letter back to its channel; 1 done, 0 there is none
--   K key ref consumer                            renew a lease
--   A key last pending bytes count ids...         what was delivered without a script is removed
--   C key(p) key(i) next removed bytes fields (field count)... [ids...]   what the inbox's reader has taken is removed:
--     what is before the id next, or only ids
--   P key consumer leased                         give back what a process held
--   N key leased                                  figures: waiting, leased, age of the oldest (ms)
--   T limit consumer queues (key leased bytes ttl)...   take messages
-- An entry of a channel has the field m (the envelope) and perhaps x, "attempt:since:kept:size:group:locals".
-- What was put back waits in the list f, in front of the stream c, or in c itself where a reader may be waiting for it.
-- Leases are pending entries of group w in c, or in t for what was taken from f.
-- Returns the characters; or, where there is more to say: characters, now, redelivered, dead, expired, dropped,
-- expired envelopes that carry credit (key, meta, body)..., deliveries (queue, ref, meta, body)...
local call = redis.call
local prefix, expiry = ARGV[1], ARGV[2] + 0
local lease, most, kept_dead = ARGV[3] + 0, ARGV[4] + 0, ARGV[5]
local codes, count, is_refused, refused = {}, 0, false, {}
local now, redelivered, dead, expired, dropped = false, 0, 0, 0, 0
local owed, taken = {}, {}
-- What this call knows already: how many more messages a channel takes, and what the hash of a process counts.
local rooms, boxes = {}, {}

-- Writes what was counted in boxes, before anybody else looks at it.
local function write_down()
  for p, box in pairs(boxes) do
    if box.is_changed then
      if box.b then
        call('HSET', p, box.field, box.n, 'b', box.b)
      else
        call('HSET', p, box.field, box.n)
      end
    end
  end
  boxes = {}
end

-- What the hash of process p counts in field, as this call leaves it; with bytes, their sum too.
local function look(p, field, bytes)
  local box = boxes[p]
  if box and box.field == field then return box end
  if box then write_down() end
  local has = call('HMGET', p, 'k', field, 'b')
  box = {is_alive = has[1], field = field, n = (has[2] or 0) + 0, b = bytes > 0 and (has[3] or 0) + 0}
  boxes[p] = box
  return box
end

-- Everything that most calls do without.
local function slow(what, ...)
  if next(boxes) then write_down() end
  rooms = {}
  local skip = #prefix + 3
  local function of(key, letter) return prefix .. ':' .. letter .. string.sub(key, skip) end

  local function clock()
    if not now then
      local time = call('TIME')
      now = time[1] * 1000 + math.floor(time[2] / 1000)
    end
    return now
  end

  local function parse(meta)
    if not meta or meta == '' then return 1, '', '', 0, '', '' end
    local attempt, since, kept, size, group, locals = string.match(meta, '^(%d*):(%d*):(k?):(%d*):([^:]*):(.*)$')
    if not attempt then return 1, '', '', 0, '', '' end  -- not ours: its reader says so
    return tonumber(attempt) or 1, since, kept, tonumber(size) or 0, group, locals
  end

  -- An item of the list f: meta and body.
  local function split(item)
    local cut = string.find(item, '\n', 1, true) or 1
    return string.sub(item, 1, cut - 1), string.sub(item, cut + 1)
  end

  -- What the header of an inbox's entry says: the field that counts it, and its size. Nothing where it is not ours.
  local function counted_in(header)
    local prefix, size, own = string.match(header, '^([^:!]*!)[^:]*:(%d+):(x?)')
    if not prefix then return nil end
    return own == 'x' and 'c' .. prefix or 'n', size + 0
  end

  local function is_late(id, meta)
    local _, since, kept = parse(meta)
    if kept == 'k' then return false end
    if since == '' then since = string.match(id, '^%d+') end
    return tonumber(since) < clock() - expiry
  end

  local function note(key, meta, body)
    expired = expired + 1
    if (body and string.byte(body, 1) or 0) % 8 >= 4 then
      owed[#owed + 1], owed[#owed + 2], owed[#owed + 3] = key, meta or '', body
    end
  end

  local function after(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    return ms .. '-' .. string.format('%.0f', seq + 1)
  end

  local function group_of(c)
    local groups = redis.pcall('XINFO', 'GROUPS', c)
    if groups.err then return '0-0', 0, false end
    for _, group in ipairs(groups) do
      local found = {}
      for i = 1, #group, 2 do found[group[i]] = group[i + 1] end
      if found.name == 'w' then return found['last-delivered-id'], found.pending, true end
    end
    return '0-0', 0, false
  end

  local function make_group(c, ttl)
    local made = redis.pcall('XGROUP', 'CREATE', c, 'w', '0', 'MKSTREAM')
    if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then error(made.err) end
    if ttl > 0 then call('PEXPIRE', c, ttl) end
  end

  local function count_bytes(c)
    local bytes = 0
    for _, entry in ipairs(call('XRANGE', c, '-', '+')) do
      local _, _, _, size = parse(entry[2][4])
      bytes = bytes + size
    end
    for _, item in ipairs(call('LRANGE', of(c, 'f'), 0, -1)) do
      local _, _, _, size = parse((split(item)))
      bytes = bytes + size
    end
    call('SET', of(c, 'b'), bytes, 'PX', 86400000)
    return bytes
  end

  local function waiting_on(c, leased)
    local last, pending = group_of(c)
    if leased then return call('XLEN', c) - pending + call('LLEN', of(c, 'f')), last end
    if last ~= '0-0' and call('XTRIM', c, 'MINID', '=', after(last)) > 0 and call('EXISTS', of(c, 'b')) == 1 then
      count_bytes(c)
    end
    return call('XLEN', c) + call('LLEN', of(c, 'f')), last
  end

  local function expire(c, leased, last)
    local start, is_over = '(' .. last, false
    while not is_over do
      local entries = call('XRANGE', c, start, '+', 'COUNT', 100)
      is_over = #entries < 100
      for _, entry in ipairs(entries) do
        local id, meta = entry[1], entry[2][4]
        start = '(' .. id
        if is_late(id, meta) then
          call('XDEL', c, id)
          note(c, meta, entry[2][2])
        else
          local _, _, kept = parse(meta)
          if kept ~= 'k' then
            is_over = true
            break
          end
        end
      end
    end
    local f = of(c, 'f')
    if not leased and call('EXISTS', f) == 1 then
      for _, item in ipairs(call('LRANGE', f, 0, -1)) do
        local meta, waiting = split(item)
        if is_late('0-0', meta) then
          call('LREM', f, 1, item)
          note(c, meta, waiting)
        end
      end
    end
  end

  local function is_full(c, cap, leased, bytes)
    local waiting, last = waiting_on(c, leased)
    if waiting < cap and (bytes == 0 or count_bytes(c) < bytes) then return false end
    expire(c, leased, last)
    return waiting_on(c, leased) >= cap or (bytes > 0 and count_bytes(c) >= bytes)
  end

  local function put_back(c, items, ttl)
    if #items == 0 then return end
    local f = of(c, 'f')
    local last = group_of(c)
    if call('EXISTS', f) == 0 and #call('XRANGE', c, '(' .. last, '+', 'COUNT', 1) == 0 then
      for _, item in ipairs(items) do call('XADD', c, '*', 'm', item[2], 'x', item[1]) end
      if ttl > 0 then call('PEXPIRE', c, ttl) end
    else
      for i = #items, 1, -1 do call('LPUSH', f, items[i][1] .. '\n' .. items[i][2]) end
      if ttl > 0 then call('PEXPIRE', f, ttl) end
    end
  end

  local function bury(c, meta, body, reason)
    local time = call('TIME')
    local at = string.format('%.0f', time[1] * 1000000 + time[2])
    call('XADD', of(c, 'q'), 'MAXLEN', '~', kept_dead, '*', 'm', body, 'x', meta, 'r', reason, 'a', at)
    dead = dead + 1
  end

  -- What a lease held, out of its stream: meta and body, or nothing where it is held no more.
  local function unlease(c, ref)
    local stream, id = of(c, string.sub(ref, 1, 1)), string.sub(ref, 2)
    local entry = call('XRANGE', stream, id, id)[1]
    if call('EXISTS', stream) == 0 or call('XACK', stream, 'w', id) == 0 then return nil end
    if not entry then return nil end
    call('XDEL', stream, id)
    local meta = entry[2][4]
    if not meta then meta = '1:' .. string.match(id, '^%d+') .. '::0::' end
    local attempt, since, _, size, group, locals = parse(meta)
    if since == '' then since = string.match(id, '^%d+') end
    return attempt, since, size, group, locals, entry[2][2]
  end

  local function meta_of(attempt, since, kept, size, group, locals)
    return string.format('%d:%s:%s:%d:%s:%s', attempt, since, kept, size, group, locals)
  end

  -- After a lease ended without a settlement: back to the front, one attempt later, or to the dead letters.
  local function lose(c, refs)
    local items = {}
    for _, ref in ipairs(refs) do
      local attempt, since, size, group, locals, body = unlease(c, ref)
      if attempt then
        redelivered = redelivered + 1
        if attempt >= most then
          bury(c, meta_of(attempt, since, 'k', size, group, locals), body,
            'Given up after ' .. attempt .. ' attempts, none of which was settled.')
        else
          items[#items + 1] = {meta_of(attempt + 1, since, 'k', size, group, locals), body}
        end
      end
    end
    put_back(c, items, 0)
  end

  local function held(stream, ...)
    local found = redis.pcall('XPENDING', stream, 'w', '-', '+', ...)
    return found.err and {} or found
  end

  -- Puts back what was leased longer than a lease; the key n says until when nothing can be.
  local function sweep(c)
    local refs, longest = {}, 0
    for _, letter in ipairs({'c', 't'}) do
      for _, entry in ipairs(held(of(c, letter), 10000)) do
        if entry[3] >= lease then
          refs[#refs + 1] = letter .. entry[1]
        elseif entry[3] > longest then
          longest = entry[3]
        end
      end
    end
    lose(c, refs)
    -- it only spares the next look: a server whose memory is full refuses it, and must be read all the same
    redis.pcall('SET', of(c, 'n'), '1', 'PX', math.max(1, lease - longest))
  end

  if what == 'full' then return is_full(...) end

  if what == 'late' then
    local c, leased, id, meta, body = ...
    if not is_late(id, meta) then return false end
    if leased then call('XACK', c, 'w', id) end
    call('XDEL', c, id)
    note(c, meta, body)
    return true
  end

  if what == 'inbox' then
    local p, i = ...
    local start, is_over = '-', false
    while not is_over do
      local entries = call('XRANGE', i, start, '+', 'COUNT', 100)
      is_over = #entries < 100
      for _, entry in ipairs(entries) do
        local id, mark, header = entry[1], entry[2][1], entry[2][2]
        start = '(' .. id
        if mark == '=' or mark == '*' then
          if not is_late(id) then
            is_over = true
            break
          end
          local field, size = counted_in(header)
          call('XDEL', i, id)
          if field then
            note(i, header, entry[2][4])
            call('HINCRBY', p, field, -1)
            if field == 'n' then call('HINCRBY', p, 'b', -size) end
          end
        end
      end
    end
    return
  end

  if what == 'recount' then
    local p, i = ...
    local found, all = {n = 0, b = 0}, call('HKEYS', p)
    for _, field in ipairs(all) do
      if string.sub(field, 1, 1) == 'c' and string.sub(field, -1) == '!' then found[field] = 0 end
    end
    for _, entry in ipairs(call('XRANGE', i, '-', '+')) do
      if entry[2][1] == '=' or entry[2][1] == '*' then
        local field, size = counted_in(entry[2][2])
        if field then found[field] = (found[field] or 0) + 1 end
        if field == 'n' then found.b = found.b + size end
      end
    end
    for field, number in pairs(found) do call('HSET', p, field, string.format('%d', number)) end
    return
  end

  if what == 'group' then
    local r, o, k, name, lapse, cap, bytes, meta, size, body = ...
    cap, bytes, size = cap + 0, bytes + 0, size + 0
    for _, owned in ipairs(call('ZRANGE', r, 0, -1)) do
      local tag = ':{' .. string.sub(owned, -27, -2) .. '}'
      local p, i = prefix .. ':p' .. tag, prefix .. ':i' .. tag
      local function room()
        local has = call('HMGET', p, 'k', 'n', 'b', 'C' .. owned, 'c' .. owned)
        if not has[1] then return nil end
        if has[4] then return tonumber(has[5] or 0) < tonumber(has[4]), true end
        return tonumber(has[2] or 0) < cap and tonumber(has[3] or 0) < bytes, false
      end
      local has_room, is_own = room()
      if has_room == false then
        slow('inbox', p, i)
        has_room, is_own = room()
      end
      if has_room == nil then
        call('ZREM', r, owned)
        call('DEL', of(r, 'm') .. owned)
        call('HDEL', of(r, 'v'), owned)
      elseif has_room then
        call('XADD', i, '*', '*', owned .. ':' .. size .. ':' .. (is_own and 'x' or '') .. ':' .. name, 'm', body)
        if is_own then
          call('HINCRBY', p, 'c' .. owned, 1)
        else
          call('HINCRBY', p, 'n', 1)
          call('HINCRBY', p, 'b', size)
        end
      else
        dropped = dropped + call('ZCARD', of(r, 'm') .. owned)
      end
    end
    if call('EXISTS', o) == 0 then return end
    call('ZREMRANGEBYSCORE', o, '-inf', '(' .. string.format('%.0f', clock() - lapse))
    local inboxes, order = {}, {}
    local function push(c, cap, leased, bytes, ttl, locals, number)
      local waiting = call('XLEN', c) + call('LLEN', of(c, 'f'))
      local is_over = waiting >= cap or (bytes > 0 and tonumber(call('GET', of(c, 'b')) or 0) >= bytes)
      if is_over and is_full(c, cap, leased, bytes) then
        dropped = dropped + number
        return
      end
      call('XADD', c, '*', 'm', body, 'x', meta .. locals)
      if bytes > 0 then
        call('INCRBY', of(c, 'b'), size)
        call('PEXPIRE', of(c, 'b'), 86400000)
      end
      if ttl > 0 then call('PEXPIRE', c, ttl) end
    end
    for _, member in ipairs(call('ZRANGE', o, 0, -1)) do
      local how = call('HGET', k, member)
      if how then
        local cap, leased, bytes, ttl, c = string.match(how, '^(%d+) (%d) (%d+) (%d+) (.*)$')
        local mark = string.find(member, '!', 1, true)
        if mark then
          local into = inboxes[c]
          if not into then
            into = {cap + 0, leased == '1', bytes + 0, ttl + 0}
            inboxes[c] = into
            order[#order + 1] = c
          end
          into[#into + 1] = string.sub(member, mark + 1)
        else
          push(c, cap + 0, leased == '1', bytes + 0, ttl + 0, '', 1)
        end
      end
    end
    for _, c in ipairs(order) do
      local into = inboxes[c]
      push(c, into[1], into[2], into[3], into[4], table.concat(into, ' ', 5), #into - 4)
    end
    return
  end

  if what == 'dead' then
    local c, ref, reason = ...
    local attempt, since, size, group, locals, body = unlease(c, ref)
    if not attempt then return '0' end
    bury(c, meta_of(attempt, since, 'k', size, group, locals), body, reason)
    return '1'
  end

  -- Of several released in a row the first comes first: all of one channel go back together.
  if what == 'release' then
    local items, order, at = {}, {}, ...
    while ARGV[at] == 'R' do
      local c, ref, begun, leased = KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3] == '1', ARGV[at + 4] == '1'
      local code = '0'
      if not items[c] then
        items[c] = {ttl = ARGV[at + 7] + 0}
        order[#order + 1] = c
      end
      local list = items[c]
      if not leased then
        list[#list + 1] = {ARGV[at + 5], ARGV[at + 6]}
        code = '1'
        local _, _, _, size, _, locals = parse(ARGV[at + 5])
        if locals ~= '' then call('INCRBY', of(c, 'b'), size) end
      else
        local attempt, since, size, group, locals, body = unlease(c, ref)
        if attempt then
          code = '1'
          if begun and attempt >= most then
            bury(c, meta_of(attempt, since, 'k', size, group, locals), body,
              'Given up after ' .. attempt .. ' attempts, none of which was settled.')
          else
            list[#list + 1] = {meta_of(begun and attempt + 1 or attempt, since, 'k', size, group, locals), body}
          end
        end
      end
      count = count + 1
      codes[count] = code
      at = at + 8
    end
    for _, c in ipairs(order) do put_back(c, items[c], items[c].ttl) end
    return at
  end

  if what == 'requeue' then
    local c, ref, leased, meta, body, ttl = ...
    if leased then
      local attempt, _, _, _, _, old = unlease(c, ref)
      if not attempt then return '0' end
      if body == '' then body = old end
    end
    call('XADD', c, '*', 'm', body, 'x', meta)
    if ttl > 0 then call('PEXPIRE', c, ttl) end
    local _, _, _, size, _, locals = parse(meta)
    if locals ~= '' then call('INCRBY', of(c, 'b'), size) end
    return '1'
  end

  if what == 'replay' then
    local c, id, ttl = ...
    local entry = call('XRANGE', of(c, 'q'), id, id)[1]
    if not entry or call('XDEL', of(c, 'q'), id) == 0 then return '0' end
    local _, _, _, size, group, locals = parse(entry[2][4])
    if group == '' and locals == '' then
      call('XADD', c, '*', 'm', entry[2][2])
    else
      call('XADD', c, '*', 'm', entry[2][2], 'x', meta_of(1, '', '', size, group, locals))
    end
    if ttl > 0 then call('PEXPIRE', c, ttl) end
    if locals ~= '' then call('INCRBY', of(c, 'b'), size) end
    return '1'
  end

  if what == 'renew' then
    local c, ref, consumer = ...
    local stream, id = of(c, string.sub(ref, 1, 1)), string.sub(ref, 2)
    if call('EXISTS', stream) == 0 then return '0' end
    local found = call('XPENDING', stream, 'w', id, id, 1, consumer)
    if #found == 0 or found[1][3] >= lease then return '0' end
    call('XCLAIM', stream, 'w', consumer, 0, id, 'JUSTID')
    return '1'
  end

  if what == 'leave' then
    local c, consumer, leased = ...
    local refs = {}
    for _, letter in ipairs({'c', 't'}) do
      local stream = of(c, letter)
      for _, entry in ipairs(held(stream, 100000, consumer)) do
        if leased then
          refs[#refs + 1] = letter .. entry[1]
        else
          call('XACK', stream, 'w', entry[1])
          call('XDEL', stream, entry[1])
        end
      end
    end
    lose(c, refs)
    for _, letter in ipairs({'c', 't'}) do
      if call('EXISTS', of(c, letter)) == 1 then redis.pcall('XGROUP', 'DELCONSUMER', of(c, letter), 'w', consumer) end
    end
    return
  end

  if what == 'figures' then
    local c, leased = ...
    if leased then sweep(c) end
    local waiting, last = waiting_on(c, leased)
    expire(c, leased, last)
    waiting = waiting_on(c, leased)
    local held_now, oldest = 0, -1
    if leased then
      local _, pending = group_of(c)
      held_now = pending + call('XLEN', of(c, 't'))
    end
    local function look(id, meta)
      local _, since = parse(meta)
      if since == '' then since = string.match(id, '^%d+') end
      if oldest < 0 or clock() - since > oldest then oldest = clock() - since end
    end
    for _, item in ipairs(call('LRANGE', of(c, 'f'), 0, -1)) do
      look('0-0', (split(item)))
    end
    local first = call('XRANGE', c, '(' .. last, '+', 'COUNT', 1)[1]
    if first then look(first[1], first[2][4]) end
    taken[#taken + 1], taken[#taken + 2], taken[#taken + 3] = waiting, held_now, math.max(0, oldest)
    clock()
    return
  end

  if what == 'take' then
    local at, limit = ...
    local consumer, number = ARGV[at + 2], ARGV[at + 3] + 0
    local queues, fronts, gates, gated = {}, {}, {}, {}
    at = at + 4
    for q = 1, number do
      local c, leased = KEYS[ARGV[at] + 0], ARGV[at + 1] == '1'
      queues[q] = {c = c, leased = leased, bytes = ARGV[at + 2] ~= '0', ttl = ARGV[at + 3] + 0, number = ARGV[at] + 0}
      fronts[q] = of(c, 'f')
      if leased then
        gates[#gates + 1] = of(c, 'n')
        gated[#gated + 1] = c
      end
      at = at + 4
    end
    if #gates > 0 and call('EXISTS', unpack(gates)) < #gates then
      for g, gate in ipairs(gates) do
        if call('EXISTS', gate) == 0 then sweep(gated[g]) end
      end
    end
    local has_front = call('EXISTS', unpack(fronts)) > 0

    local function give(q, ref, meta, body)
      local n = #taken
      taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = q.number, ref, meta or '', body
      limit = limit - 1
    end

    local function read(q, stream, want)
      local words = {'XREADGROUP', 'GROUP', 'w', '-', 'COUNT', want, 'NOACK', 'STREAMS', stream, '>'}
      if q.leased then words = {'XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', want, 'STREAMS', stream, '>'} end
      local found = redis.pcall(unpack(words))
      if found and found.err then
        if string.find(found.err, 'NOGROUP', 1, true) then
          make_group(stream, q.ttl)
          return read(q, stream, want)
        end
        found = call(unpack(words))  -- fails again, in the server's own words, by which those that pass are known
      end
      return found and found[1] and found[1][2] or {}
    end

    local function draw(q, want)
      local got = 0
      while has_front and got < want do
        local item = call('LPOP', of(q.c, 'f'))
        if not item then break end
        local meta, body = split(item)
        if is_late('0-0', meta) then
          note(q.c, meta, body)
        elseif q.leased then
          local t = of(q.c, 't')
          call('XADD', t, '*', 'm', body, 'x', meta)
          local entry = read(q, t, 1)[1]
          give(q, 't' .. entry[1], meta, body)
          got = got + 1
        else
          give(q, '', meta, body)
          got = got + 1
        end
        if q.bytes then
          local _, _, _, size = parse(meta)
          call('DECRBY', of(q.c, 'b'), size)
        end
      end
      while got < want do
        local wanted = math.min(want - got, 1000)  -- unpack() below has a limit
        local entries = read(q, q.c, wanted)
        local gone = {}
        for _, entry in ipairs(entries) do
          local id, fields = entry[1], entry[2]
          if fields then
            local meta, body = fields[4], fields[2]
            if is_late(id, meta) then
              if q.leased then call('XACK', q.c, 'w', id) end
              gone[#gone + 1] = id
              note(q.c, meta, body)
            else
              if not q.leased then gone[#gone + 1] = id end
              give(q, 'c' .. id, meta, body)
              got = got + 1
            end
            if q.bytes then
              local _, _, _, size = parse(meta)
              call('DECRBY', of(q.c, 'b'), size)
            end
          end
        end
        if #gone > 0 then call('XDEL', q.c, unpack(gone)) end
        if #entries < wanted then break end
      end
      return got
    end

    clock()
    local active = queues
    while limit > 0 and #active > 0 do
      local share, left = math.max(1, math.floor(limit / #active)), {}
      for _, q in ipairs(active) do
        local want = math.min(share, limit)
        if want > 0 and draw(q, want) == want then left[#left + 1] = q end
      end
      active = left
    end
    return at
  end
end

-- Takes from any number of channels with one read, where that is all there is to do; returns where the step ends.
local function take(at)
  local limit, consumer, number = ARGV[at + 1] + 0, ARGV[at + 2], ARGV[at + 3] + 0
  local leased = ARGV[at + 5]
  local known, read, places = {}, {}, {}
  for q = 1, number do
    local from = at + 4 * q
    local c = KEYS[ARGV[from] + 0]
    local tail = string.sub(c, #prefix + 3)
    if limit < number or ARGV[from + 1] ~= leased or ARGV[from + 2] ~= '0' then return slow('take', at, limit) end
    known[q] = prefix .. ':f' .. tail
    read[q], read[number + q], places[c] = c, '>', ARGV[from]
    if leased == '1' and call('EXISTS', prefix .. ':n' .. tail) == 0 then return slow('take', at, limit) end
  end
  if call('EXISTS', unpack(known)) > 0 then return slow('take', at, limit) end
  local share = math.min(1000, math.floor(limit / number))
  local found
  if leased == '1' then
    found = redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', share, 'STREAMS', unpack(read))
  else
    found = redis.pcall('XREADGROUP', 'GROUP', 'w', '-', 'COUNT', share, 'NOACK', 'STREAMS', unpack(read))
  end
  local over = at + 4 + 4 * number
  if not found then return over end
  if found.err then return slow('take', at, limit) end
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  local oldest, left, has_more, n = now - expiry, limit, false, #taken
  for _, stream in ipairs(found) do
    local c, entries = stream[1], stream[2]
    local place, gone = places[c], {}
    if #entries == share then has_more = true end
    for e, entry in ipairs(entries) do
      local id, fields = entry[1], entry[2]
      local meta = fields[4]
      local may_be_late = meta or tonumber(string.match(id, '^%d+')) < oldest
      if not may_be_late or not slow('late', c, leased == '1', id, meta, fields[2]) then
        taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = place + 0, 'c' .. id, meta or '', fields[2]
        n, left = n + 4, left - 1
        if leased ~= '1' then gone[#gone + 1] = id end
      end
    end
    if #gone > 0 then call('XDEL', c, unpack(gone)) end
  end
  if has_more and left > 0 then return slow('take', at, left) end
  return over
end

local at, last = 6, #ARGV
local remembered
if ARGV[at] == 'U' then
  remembered = KEYS[ARGV[at + 1] + 0]
  local said = call('HGET', remembered, ARGV[at + 2])
  if said then return said end
  codes[1], count, at = ' ', 1, at + 3
end
while at <= last do
  local step = ARGV[at]
  count = count + 1
  if step == 'S' then
    local c, cap, leased = KEYS[ARGV[at + 1] + 0], ARGV[at + 2] + 0, ARGV[at + 3] == '1'
    local bytes, ttl, number = ARGV[at + 4] + 0, ARGV[at + 5], ARGV[at + 6] + 0
    local tail, has_sent = string.sub(c, #prefix + 3), false
    at = at + 7
    for place = count, count + number - 1 do
      local meta, body = ARGV[at], ARGV[at + 1]
      local is_over = refused[c]
      if not is_over then
        local room = rooms[c] or cap - call('XLEN', c) - call('LLEN', prefix .. ':f' .. tail)
        rooms[c] = room - 1
        is_over = room <= 0 or (bytes > 0 and tonumber(call('GET', prefix .. ':b' .. tail) or 0) >= bytes)
        if is_over then is_over = slow('full', c, cap, leased, bytes) end
      end
      if is_over then
        refused[c], is_refused, codes[place] = true, true, '0'
      else
        if meta == '' then
          call('XADD', c, '*', 'm', body)
        else
          call('XADD', c, '*', 'm', body, 'x', meta)
        end
        if bytes > 0 then
          call('INCRBY', prefix .. ':b' .. tail, string.match(meta, '^%d*:%d*:k?:(%d+)'))
          call('PEXPIRE', prefix .. ':b' .. tail, 86400000)
        end
        has_sent, codes[place] = true, '1'
      end
      at = at + 2
    end
    if has_sent and ttl ~= '0' then call('PEXPIRE', c, ttl) end
    count = count + number - 1
  elseif step == 'I' then
    local p, i, mark, field = KEYS[ARGV[at + 1] + 0], KEYS[ARGV[at + 2] + 0], ARGV[at + 3], ARGV[at + 4]
    local cap, bytes, number = ARGV[at + 5] + 0, ARGV[at + 6] + 0, ARGV[at + 7] + 0
    local mine, box = p .. field, look(p, field, bytes)
    at = at + 8
    for place = count, count + number - 1 do
      if not box.is_alive then
        codes[place] = '2'
      else
        local is_over = refused[mine]
        if not is_over and (box.n >= cap or (bytes > 0 and box.b >= bytes)) then
          slow('inbox', p, i)
          box = look(p, field, bytes)
          is_over = box.n >= cap or (bytes > 0 and box.b >= bytes)
        end
        if is_over then
          refused[mine], is_refused, codes[place] = true, true, '0'
        else
          call('XADD', i, '*', mark, ARGV[at + 1], 'm', ARGV[at + 2])
          box.n, box.is_changed = box.n + 1, true
          if bytes > 0 then box.b = box.b + ARGV[at] end
          codes[place] = '1'
        end
      end
      at = at + 3
    end
    count = count + number - 1
  elseif step == 'B' then
    is_refused = false
    codes[count] = ' '
    at = at + 1
  elseif step == 'G' then
    slow('group', KEYS[ARGV[at + 1] + 0], KEYS[ARGV[at + 2] + 0], KEYS[ARGV[at + 3] + 0], ARGV[at + 4], ARGV[at + 5] + 0,
      ARGV[at + 6], ARGV[at + 7], ARGV[at + 8], ARGV[at + 9], ARGV[at + 10])
    codes[count] = '1'
    at = at + 11
  elseif step == 'T' then
    codes[count] = ' '
    at = take(at)
  elseif step == 'D' then
    local c, number = KEYS[ARGV[at + 1] + 0], ARGV[at + 2] + 0
    local before, ended = remembered and 1 or 0, {}
    at = at + 3
    for place = count, count + number - 1 do
      local ref, first, code = ARGV[at], ARGV[at + 1] + before, '0'
      for n = first + 1, first + ARGV[at + 2] do
        if codes[n] == '0' then code = '-' end
      end
      if code == '0' then
        local stream, id = c, string.sub(ref, 2)
        if string.byte(ref) == 116 then stream = prefix .. ':t' .. string.sub(c, #prefix + 3) end
        local ids = ended[stream]
        if ids == nil then
          ids = call('EXISTS', stream) == 1 and {}
          ended[stream] = ids
        end
        if ids and call('XACK', stream, 'w', id) == 1 then
          code, ids[#ids + 1] = '1', id
          if #ids == 1000 then  -- unpack() has a limit
            call('XDEL', stream, unpack(ids))
            ids = {}
            ended[stream] = ids
          end
        end
      end
      codes[place] = code
      at = at + 3
    end
    for stream, ids in pairs(ended) do
      if ids and #ids > 0 then call('XDEL', stream, unpack(ids)) end
    end
    count = count + number - 1
  elseif step == 'R' then
    if is_refused then
      codes[count] = '-'
      at = at + 8
    else
      count = count - 1
      at = slow('release', at)
    end
  elseif step == 'Q' then
    if is_refused then
      codes[count] = '-'
    else
      codes[count] = slow('requeue', KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3] == '1', ARGV[at + 4],
        ARGV[at + 5], ARGV[at + 6] + 0)
    end
    at = at + 7
  elseif step == 'X' then
    codes[count] = is_refused and '-' or slow('dead', KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  elseif step == 'Y' then
    codes[count] = slow('replay', KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3] + 0)
    at = at + 4
  elseif step == 'K' then
    codes[count] = slow('renew', KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  elseif step == 'A' then
    -- last '' : only these ids; else everything up to last has been delivered
    local c, id, pending = KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3] == '1'
    local bytes, number = ARGV[at + 4] + 0, ARGV[at + 5] + 0
    codes[count] = ' '
    local ids = {}
    for n = 1, number do ids[n] = ARGV[at + 5 + n] end
    if pending then call('XACK', c, 'w', unpack(ids)) end
    if call('XDEL', c, unpack(ids)) > 0 and bytes > 0 then
      call('DECRBY', prefix .. ':b' .. string.sub(c, #prefix + 3), bytes)
    end
    rooms[c] = nil
    at = at + 6 + number
  elseif step == 'C' then
    local p, i, id = KEYS[ARGV[at + 1] + 0], KEYS[ARGV[at + 2] + 0], ARGV[at + 3]
    local expected, bytes, fields = ARGV[at + 4] + 0, ARGV[at + 5] + 0, ARGV[at + 6] + 0
    codes[count] = ' '
    local removed
    local ids = at + 7 + 2 * fields
    if id ~= '' then
      removed = call('XTRIM', i, 'MINID', '=', id)
    else
      removed = 0
      for n = 0, expected - 1 do removed = removed + call('XDEL', i, ARGV[ids + n]) end
    end
    if removed ~= expected then
      if call('EXISTS', p) == 1 then slow('recount', p, i) end
    elseif fields == 1 and ARGV[at + 7] == 'n' then
      local box = look(p, 'n', 1)
      if box.is_alive then box.n, box.b, box.is_changed = box.n - ARGV[at + 8], box.b - bytes, true end
    elseif call('EXISTS', p) == 1 then
      if next(boxes) then write_down() end
      for n = 1, fields do call('HINCRBY', p, ARGV[at + 5 + 2 * n], -(ARGV[at + 6 + 2 * n] + 0)) end
      if bytes > 0 then call('HINCRBY', p, 'b', -bytes) end
    end
    at = id ~= '' and ids or ids + expected
  elseif step == 'P' then
    slow('leave', KEYS[ARGV[at + 1] + 0], ARGV[at + 2], ARGV[at + 3] == '1')
    codes[count] = ' '
    at = at + 4
  elseif step == 'N' then
    slow('figures', KEYS[ARGV[at + 1] + 0], ARGV[at + 2] == '1')
    codes[count] = ' '
    at = at + 3
  else
    return redis.error_reply('ERR channels: unknown step ' .. tostring(step) .. ' at ' .. at)
  end
end
if next(boxes) then write_down() end
local said = table.concat(codes)
if remembered then
  call('HSET', remembered, ARGV[8], said)
  call('HDEL', remembered, string.format('%.0f', ARGV[8] - 4096))
  call('PEXPIRE', remembered, 120000)
end
if not now and dropped == 0 and redelivered == 0 and dead == 0 and expired == 0 then return said end
return {said, now or 0, redelivered, dead, expired, dropped, owed, taken}
