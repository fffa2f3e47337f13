/**
 * A reservation counts as released only if the provider says that the intent is cancelled. In every other state the
 * worker checks again.
 */
import t from 'tap'
import type { Breaker } from '../../src/shared/breaker.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import type { Gateway, Intent } from '../../src/shared/payments/gateway.ts'
import { ChargeSaga } from '../../src/workers/payments/charge-saga.ts'
import { openShop } from '../support/api-client.ts'
import { openWorld } from '../support/environment.ts'

const breaker: Breaker = {
  name: 'payments',
  state: () => 'closed',
  failing: () => undefined,
  run: (body) => body(new AbortController().signal),
  close() {},
}

t.test('refund of a reservation: released if the intent is cancelled, and in no other state', async (t) => {
  const { env } = await openWorld(t)
  const { client } = openShop(t, [], env.DATABASE_URL)
  /** intent → its status at the provider before and after a cancel request */
  const states = new Map<string, [Intent['status'], Intent['status']]>()
  const refunded: string[] = []
  const intent = (id: string, n: 0 | 1): Intent => ({ id, status: states.get(id)?.[n] ?? 'created', reason: null })
  const gateway: Gateway = {
    create: () => Promise.reject(new Error('not expected in this test')),
    find: async (id) => intent(id, 0),
    fetchSnapshot: async (id) => ({ intent: intent(id, 0), refunds: [], disputes: [] }),
    confirm: async (id) => intent(id, 0),
    capture: async (id) => intent(id, 0),
    cancel: async (id) => intent(id, 1),
    async refund(id, amount, key) {
      refunded.push(id)
      return { id: `re_${id}`, amount, status: 'refunded', reason: null, key }
    },
    webhook: () => ({ subject: undefined, intent: undefined, recheck: false }),
  }
  const log = createLog('silent', 'test')
  const payments = new ChargeSaga({ client, gateway, breaker, metrics: createMetrics(), log, nudge() {} })
  /** Creates a cancelled purchase whose reservation must be released. */
  const cancelled = async () => {
    const [row] = await client<{ id: string }[]>`
      INSERT INTO purchases (queue, customer, items, amount, currency, payment, status)
      VALUES ('product:1', 'ada', '[{"resource": "product:1", "units": 1}]', 500, 'USD',
              '{"method": "card", "token": "tok_visa"}', 'cancelled') RETURNING id`
    const id = row?.id ?? ''
    await client`INSERT INTO charges (purchase_id, kind, amount, status, provider_id)
                 VALUES (${id}, 'charge', 500, 'authorized', ${id})`
    await client`INSERT INTO charges (purchase_id, kind, amount) VALUES (${id}, 'refund', 500)`
    return id
  }
  const after = async (before: Intent['status'], then: Intent['status'], id?: string) => {
    const of = id ?? (await cancelled())
    states.set(of, [before, then])
    await payments.process(of)
    const rows = await client<{ status: string }[]>`
      SELECT status FROM charges WHERE purchase_id = ${of} ORDER BY kind`
    return { id: of, statuses: rows.map((row) => row.status) }
  }

  // Statuses that a cancel does not change, because another request uses the intent or the provider is still processing
  // it.
  const open = ['created', 'processing', 'declined', 'authorized'] as const
  const tried = await Promise.all(open.map((status) => after('authorized', status)))
  for (const [n, { statuses }] of tried.entries()) t.same(statuses, ['authorized', 'pending'], `still ${open[n]}`)
  const ended = await Promise.all(tried.map(({ id }) => after('authorized', 'cancelled', id)))
  for (const { statuses } of ended) t.same(statuses, ['released', 'released'], 'cancelled at last')
  t.match(await after('cancelled', 'cancelled'), { statuses: ['released', 'released'] }, 'it was before')
  t.same(refunded, [], 'nothing was captured')
  const late = await after('authorized', 'captured')
  t.same(late.statuses, ['captured', 'refunded'], 'captured before it could be cancelled: it is refunded')
  t.same(refunded, [late.id], 'once')
})
