/**
 * src/workers/webhooks/streams.ts: a stream advances only under its sender's token and from the number that the sender
 * read.
 */
import t from 'tap'
import { openDb } from '../../src/shared/db/client.ts'
import type { Event } from '../../src/shared/outbox.ts'
import {
  advanceStreams,
  claimStream,
  defer,
  disable,
  dueStreams,
  hasEndpoints,
  prune,
  recordDelivered,
  recordFailure,
  skipTo,
} from '../../src/workers/webhooks/streams.ts'
import { openWorld } from '../support/environment.ts'

t.test('streams', async (t) => {
  const world = await openWorld(t)
  const { client, close } = openDb(world.env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(close)
  t.equal(await hasEndpoints(client), false)
  const [endpoint] = await client<{ id: string }[]>`
    INSERT INTO webhook_endpoints (url, secret, outbox_position) VALUES ('https://shop.example/', 'whsec_', 0) RETURNING id`
  const id = endpoint?.id ?? ''
  t.equal(await hasEndpoints(client), true)
  for (let n = 1; n <= 3; n++) {
    await client`INSERT INTO ledger_entries (resource_id, delta, reason) VALUES ('product:1', ${n}, 'delivery')`
  }
  const [last] = await client<{ id: number }[]>`SELECT max(id) AS id FROM outbox`
  const final = last?.id ?? 0
  const event = (sequence: number) =>
    ({ id: `${final - 3 + sequence}-1`, type: 'resource.restocked', sequence, data: {} }) as unknown as Event
  const accepted = { status: 200, duration_ms: 1 }
  const refused = { status: 500, duration_ms: 1 }

  await advanceStreams(client, final)
  await advanceStreams(client, final)
  t.same(await dueStreams(client), [{ endpoint: id, resource: 'product:1' }], 'one stream, extended once')
  const stream = { endpoint: id, resource: 'product:1' }

  const claimed = await claimStream(client, stream, 5)
  if (!claimed) throw new Error('the stream was not claimed')
  t.match(claimed, { delivered_sequence: 0, attempts: 0, url: 'https://shop.example/', previous_secret: null })
  t.equal(await claimStream(client, stream, 4), undefined, 'an older token')
  t.equal(await recordDelivered(client, claimed, 4, event(1), accepted), false, 'nor may its sender write')
  t.equal(await recordDelivered(client, claimed, 5, event(1), accepted), true)
  t.equal(await recordDelivered(client, claimed, 5, event(1), accepted), false, 'the stream has advanced since')

  const next = await claimStream(client, stream, 6)
  if (!next) throw new Error('the stream was not claimed')
  t.equal(next.delivered_sequence, 1)
  t.ok(((await recordFailure(client, next, 6, event(2), refused, 60_000)) ?? -1) >= 0)
  t.same(await dueStreams(client), [], 'not before its pause has ended')
  await defer(client, next, 6, -1)
  t.equal((await dueStreams(client)).length, 1)
  t.equal(await skipTo(client, next, 6, 3, final), true)
  t.same(await dueStreams(client), [], 'everything is delivered or skipped')
  t.same(
    (await client`SELECT sequence, attempt, status FROM webhook_deliveries ORDER BY id`).map((row) => ({ ...row })),
    [
      { sequence: 1, attempt: 1, status: 200 },
      { sequence: 2, attempt: 1, status: 500 },
    ],
  )

  await disable(client, id, 'gone')
  t.equal(await hasEndpoints(client), false)
  t.equal(await prune(client, 1), false, 'nothing is old enough')
  t.equal((await client`SELECT 1 FROM outbox`).length, 3)
  t.equal(await prune(client, 0), false)
  t.equal((await client`SELECT 1 FROM outbox`).length, 0)
  t.match(await client`SELECT pruned_through_id::int AS id FROM outbox_retention`, [{ id: final }])
})
