/** src/api/queue/submission.ts and requests.ts: a row or a command from its request to its answer, with fakes for its parts. */
import Fastify from 'fastify'
import t from 'tap'
import type { CommandRows, NewCommand } from '../../../src/api/queue/command-rows.ts'
import type { EnqueueResult, QueuedRowInput } from '../../../src/api/queue/intake-rows.ts'
import { accepted, enqueueRow, idempotencyColumns, submitCommand } from '../../../src/api/queue/requests.ts'
import { RowQueue } from '../../../src/api/queue/submission.ts'
import { UnavailableError } from '../../../src/shared/breaker.ts'
import { Problem } from '../../../src/shared/problem.ts'

interface Row {
  id: string
  queue: string
  status: string
  overdue: boolean
  charging: boolean
}
const row = (id: string, status: string, more: Partial<Row> = {}): Row => ({
  id,
  queue: 'product:1',
  status,
  overdue: false,
  charging: false,
  ...more,
})

/** One queue. `log` has what was done, in order; `onWait` is what happens elsewhere while a request waits. */
function openQueue() {
  const rows = new Map<string, Row>()
  const keys = new Map<string, { id: string; hash: string | null }>()
  const commands = new Map<string, NewCommand & { status: 'queued' | 'done' | 'rejected'; reason: string | null }>()
  const log: string[] = []
  const fake = {
    rows,
    commands,
    log,
    onWait: (_id: string) => {},
    postgres: 'up' as 'up' | 'away',
    failed: undefined as string | undefined,
  }
  const commandRows: CommandRows = {
    async find(key) {
      return [...commands.values()].find((one) => one.idempotency_key === key)?.id
    },
    async insert(command) {
      log.push('insert command')
      const earlier = command.idempotency_key && (await commandRows.find(command.idempotency_key, '', null))
      if (!earlier) commands.set(command.id, { ...command, status: 'queued', reason: null })
      return earlier || command.id
    },
    async state(id) {
      const { status = 'queued', reason = null } = commands.get(id) ?? {}
      return { status, reason, observed_status: null }
    },
    failedCharge: async () => fake.failed,
  }
  const queue = new RowQueue<Row, QueuedRowInput>({
    noun: 'purchase',
    asQueued: ({ id }) => row(id, 'queued'),
    intake: {
      async enqueue({ id, idempotency_key: key, request_hash: hash }): Promise<EnqueueResult> {
        log.push('insert')
        const earlier = key === null ? undefined : keys.get(key)
        if (earlier) return { id: earlier.id, replayed: true, same_body: earlier.hash === hash }
        rows.set(id, row(id, 'queued'))
        if (key !== null) keys.set(key, { id, hash })
        return { id, replayed: false, seq: 1, created_at: '' }
      },
    },
    reader: {
      async findById(id) {
        log.push('read')
        if (fake.postgres === 'away') throw new UnavailableError('postgres', 'timed out')
        return rows.get(id)
      },
      findAll: async () => [],
    },
    waiter: {
      watch: (id) => {
        log.push('watch')
        return {
          async wait() {
            log.push('wait')
            fake.onWait(id)
          },
          stop: () => void log.push('stop'),
        }
      },
    },
    commands: commandRows,
  })
  const app = Fastify()
  app.decorateRequest('caller', '')
  app.setErrorHandler((error, _request, reply) => {
    const problem = error instanceof Problem ? error : new Problem(500, 'error', String(error))
    return reply.code(problem.status).send({ code: problem.code })
  })
  let made = 0
  app.post('/purchases', async (request, reply) => {
    const { idempotency_key, idempotency_scope, request_hash } = idempotencyColumns(request, '', request.body as object)
    const key = { idempotency_key, idempotency_scope, request_hash }
    const input = {
      id: `p${++made}`,
      queue: 'product:1',
      customer: '',
      payment: { method: 'none' as const },
      hold_seconds: null,
    }
    const { row, settled } = await enqueueRow(queue, { ...input, ...key }, request, reply)
    return settled ? reply.code(201).send(row) : accepted(reply, row)
  })
  app.post('/purchases/:id/confirm', async (request, reply) => {
    const command = { action: 'confirm', pays: true, payment: null }
    const { id } = request.params as { id: string }
    const mayStill = (row: Row) => row.status === 'held'
    const { row: after, ...result } = await submitCommand(queue, command, id, mayStill, request, reply)
    return result.status === 'pending'
      ? accepted(reply, result)
      : reply.code(200).send({ ...result, now: after.status })
  })
  const post = async (url: string, headers: Record<string, string> = {}, payload: object = {}) => {
    log.length = 0
    const { statusCode, headers: answered, body } = await app.inject({ method: 'POST', url, headers, payload })
    return { status: statusCode, headers: answered, body: JSON.parse(body) }
  }
  return Object.assign(fake, { post })
}

const WAIT = { prefer: 'wait=5' }
const KEY = { 'idempotency-key': 'k' }

t.test('without Prefer: 202 after the commit, and no read', async (t) => {
  const { post, log } = openQueue()
  const answer = await post('/purchases')
  t.match(answer, {
    status: 202,
    headers: { location: '/api/purchases/p1', 'retry-after': '1' },
    body: { status: 'queued' },
  })
  t.equal(answer.headers['preference-applied'], undefined)
  t.same(log, ['insert'])
})

t.test('Prefer: wait: watched before it is inserted, read after the wait, 201', async (t) => {
  const queue = openQueue()
  queue.onWait = (id) => queue.rows.set(id, row(id, 'confirmed'))
  const answer = await queue.post('/purchases', WAIT)
  t.match(answer, { status: 201, headers: { 'preference-applied': 'wait=5' }, body: { status: 'confirmed' } })
  t.same(queue.log, ['watch', 'insert', 'wait', 'read', 'stop'])
})

t.test('not settled when the wait is over, or its card is being charged: 202', async (t) => {
  const queue = openQueue()
  t.match(await queue.post('/purchases', WAIT), { status: 202, body: { id: 'p1', status: 'queued' } })
  queue.onWait = (id) => queue.rows.set(id, row(id, 'held', { charging: true }))
  t.match(await queue.post('/purchases', WAIT), { status: 202, body: { id: 'p2', status: 'held' } })
})

t.test('Postgres is away after the commit: 202, since after a 503 the client would buy it twice', async (t) => {
  const queue = openQueue()
  queue.onWait = () => {
    queue.postgres = 'away'
  }
  t.match(await queue.post('/purchases', WAIT), { status: 202, body: { id: 'p1', status: 'queued' } })
  t.equal(queue.log.at(-1), 'stop')
})

t.test('a repeated key: the row of the first request, watched before it is read', async (t) => {
  const queue = openQueue()
  await queue.post('/purchases', KEY)
  t.match(await queue.post('/purchases', KEY), { status: 202, headers: { 'idempotent-replayed': 'true' } })
  queue.onWait = (id) => queue.rows.set(id, row(id, 'confirmed'))
  const answer = await queue.post('/purchases', { ...KEY, ...WAIT })
  t.match(answer, { status: 201, headers: { location: '/api/purchases/p1', 'idempotent-replayed': 'true' } })
  t.same(queue.log, ['watch', 'insert', 'stop', 'watch', 'read', 'wait', 'read', 'stop'])
  await queue.post('/purchases', { ...KEY, ...WAIT })
  t.notOk(queue.log.includes('wait'), 'it is settled: answered at once')
})

t.test('a key with another body: 422, and nothing is left watched', async (t) => {
  const queue = openQueue()
  await queue.post('/purchases', KEY, { units: 1 })
  t.match(await queue.post('/purchases', { ...KEY, ...WAIT }, { units: 2 }), {
    status: 422,
    body: { code: 'idempotency_key_reused' },
  })
  t.same(queue.log, ['watch', 'insert', 'stop'])
})

/** A held purchase, and a worker that ends its command in this way. */
function openHeld(status: 'done' | 'rejected', reason: string | null, after: Row) {
  const queue = openQueue()
  queue.rows.set('h', row('h', 'held'))
  queue.onWait = () => {
    for (const command of queue.commands.values()) Object.assign(command, { status, reason })
    queue.rows.set('h', after)
  }
  return queue
}

t.test('a command is watched before it is inserted, and answered by the row after it', async (t) => {
  const queue = openHeld('done', null, row('h', 'confirmed'))
  t.match(await queue.post('/purchases/h/confirm'), { status: 200, body: { status: 'done', now: 'confirmed' } })
  t.same(queue.log, ['read', 'watch', 'insert command', 'wait', 'watch', 'read', 'stop', 'stop'])
})

t.test('a command that no status of the row can allow is not queued; of no row: 404', async (t) => {
  const queue = openQueue()
  queue.rows.set('r', row('r', 'refunded'))
  t.match(await queue.post('/purchases/r/confirm'), {
    body: { status: 'rejected', reason: 'wrong_status', observed_status: 'refunded' },
  })
  t.same(queue.log, ['read'])
  t.match(await queue.post('/purchases/x/confirm'), { status: 404, body: { code: 'not_found' } })
})

t.test('the worker rejected it', async (t) => {
  const queue = openHeld('rejected', 'payment_conflict', row('h', 'held'))
  t.match(await queue.post('/purchases/h/confirm'), { body: { status: 'rejected', reason: 'payment_conflict' } })
})

t.test('not executed when the wait is over, or its charge is in progress: 202', async (t) => {
  const queue = openQueue()
  queue.rows.set('h', row('h', 'held'))
  t.match(await queue.post('/purchases/h/confirm'), { status: 202 })
  const charged = openHeld('done', null, row('h', 'held', { charging: true }))
  t.match(await charged.post('/purchases/h/confirm'), { status: 202 })
  t.equal(charged.log.filter((one) => one === 'wait').length, 2, 'for the command, and for its charge')
})

t.test('its charge failed', async (t) => {
  for (const [failed, reason] of [
    ['declined', 'payment_declined'],
    ['unavailable', 'payment_unavailable'],
  ] as const) {
    const queue = openHeld('done', null, row('h', 'held'))
    queue.failed = failed
    t.match(await queue.post('/purchases/h/confirm'), { body: { status: 'unpaid', reason } })
  }
})

t.test('a repeated command: the outcome of the first, without another one', async (t) => {
  const queue = openHeld('done', null, row('h', 'confirmed'))
  await queue.post('/purchases/h/confirm', KEY)
  const answer = await queue.post('/purchases/h/confirm', KEY)
  t.match(answer, {
    status: 200,
    headers: { 'idempotent-replayed': 'true' },
    body: { replayed: true, now: 'confirmed' },
  })
  t.notOk(queue.log.includes('insert command'))
  t.notOk(queue.log.includes('wait'), 'it is executed: answered at once')
})
