/** src/api/queue/intake.ts: requests that arrive together share one INSERT, on a database of this file's own. */
import t from 'tap'
import { Intake } from '../../../src/api/queue/intake.ts'
import { UnavailableError } from '../../../src/shared/breaker.ts'
import { openDb } from '../../../src/shared/db/client.ts'
import type { LineItem } from '../../../src/shared/domain/purchase.ts'
import { newId } from '../../../src/shared/ids.ts'
import { createLog } from '../../../src/shared/log.ts'
import { openWorld, until } from '../../support/environment.ts'

t.test('intake of purchases', async (t) => {
  const { env } = await openWorld(t)
  const { client, close } = openDb(env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  const nudged: string[][] = []
  let flushes = 0
  let away = false
  const intake = new Intake<ReturnType<typeof row>>('purchases', {
    database_url: env.DATABASE_URL,
    breaker: {
      async run(body) {
        flushes++
        const done = await body(new AbortController().signal)
        if (away) throw new UnavailableError('postgres', new Error('the response was lost'))
        return done
      },
    },
    log: createLog('silent', 'test'),
    nudge: (queues) => void nudged.push([...queues]),
  })
  t.teardown(async () => {
    await intake.close()
    await close()
  })
  const row = (queue: string, key: string | null = null, request_hash: string | null = null) => ({
    id: newId(),
    queue,
    customer: 'ada',
    items: [{ resource: queue, units: 1 }] as LineItem[],
    payment: { method: 'none' as const },
    hold_seconds: null,
    idempotency_key: key,
    idempotency_scope: '',
    request_hash,
  })

  t.test('requests of one turn are one statement, numbered in order of arrival, and one nudge', async (t) => {
    const rows = ['product:2', 'product:1', 'product:2'].map((queue) => row(queue))
    const results = await Promise.all(rows.map((one) => intake.enqueue(one)))
    t.equal(flushes, 1)
    t.same(nudged, [['product:2', 'product:1']])
    const stored = await client<{ id: string }[]>`SELECT id FROM purchases ORDER BY seq`
    t.same(
      stored.map(({ id }) => id),
      rows.map(({ id }) => id),
    )
    t.ok(results.every((result) => !result.replayed && result.seq > 0))
  })

  t.test('a second request with a key finds the row of the first, also in one turn', async (t) => {
    const first = row('product:3', 'key', 'body')
    const [one, same, other] = await Promise.all(
      [first, row('product:3', 'key', 'body'), row('product:3', 'key', 'another body')].map((r) => intake.enqueue(r)),
    )
    const replays = [one, same, other].filter((result) => result?.replayed)
    t.equal(replays.length, 2)
    const later = await intake.enqueue(row('product:3', 'key', 'body'))
    t.match(later, { replayed: true })
    t.equal((await client`SELECT 1 FROM purchases WHERE idempotency_key = 'key'`).length, 1)
  })

  t.test('a row that Postgres refuses is rejected alone', async (t) => {
    const bad = { ...row('product:4'), customer: 'a\u0000b' }
    const [good, refused, other] = await Promise.allSettled(
      [row('product:4'), bad, row('product:4')].map((one) => intake.enqueue(one)),
    )
    t.match([good, other], [{ status: 'fulfilled' }, { status: 'fulfilled' }])
    t.match(refused, { status: 'rejected', reason: { status: 400, code: 'invalid_request' } })
  })

  t.test('when the response is lost, rows without a key are cancelled and rows with one stay', async (t) => {
    away = true
    const lost = [row('product:5'), row('product:5', 'kept', 'body')]
    const results = await Promise.allSettled(lost.map((one) => intake.enqueue(one)))
    away = false
    t.ok(results.every((result) => result.status === 'rejected' && result.reason instanceof UnavailableError))
    const statuses = () => client<{ status: string; reason: string | null }[]>`
      SELECT status, reason FROM purchases WHERE queue = 'product:5' ORDER BY seq`
    await until(async () => (await statuses()).some(({ status }) => status === 'cancelled'), {
      what: 'the unacknowledged row to be cancelled',
    })
    t.match(await statuses(), [
      { status: 'cancelled', reason: 'not_acknowledged' },
      { status: 'queued', reason: null },
    ])
    t.match(await intake.enqueue(row('product:5', 'kept', 'body')), { replayed: true, id: lost[1]?.id })
  })
})
