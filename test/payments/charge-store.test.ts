/** src/workers/payments/charge-store.ts: each write changes a row only in the status from which the step starts. */
import t from 'tap'
import { openDb } from '../../src/shared/db/client.ts'
import {
  loadCharge,
  markCancelling,
  markConfirming,
  recordCapture,
  recordOutcome,
  recordRelease,
} from '../../src/workers/payments/charge-store.ts'
import { openWorld } from '../support/environment.ts'

t.test('charge-store', async (t) => {
  const world = await openWorld(t)
  const { client, close } = openDb(world.env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(close)
  /** Inserts a held purchase with a charge in this status. */
  const charged = async (status: string, hold = '60 s') => {
    const [row] = await client<{ id: string }[]>`
      INSERT INTO purchases (queue, items, amount, currency, payment, status, expires_at)
      VALUES ('product:1', '[{"resource": "product:1", "units": 1}]', 500, 'USD',
              '{"method": "card", "token": "tok_visa"}', 'held', now() + ${hold}::text::interval) RETURNING id`
    const id = row?.id ?? ''
    await client`INSERT INTO charges (purchase_id, kind, amount, status, provider_id)
                 VALUES (${id}, 'charge', 500, ${status}, ${status === 'pending' ? null : id})`
    const charge = await loadCharge(client, id)
    if (!charge) throw new Error('there is no charge')
    return charge
  }
  const statusOf = async (id: string) => (await loadCharge(client, id))?.status
  const commandsOf = async (id: string) =>
    (await client`SELECT action FROM commands WHERE purchase_id = ${id}`).map((row) => row.action)

  t.test('loadCharge: returns everything on which the next step depends', async (t) => {
    const charge = await charged('pending')
    t.match(charge, { of: 'purchase', queue: 'product:1', token: 'tok_visa', amount: 500, open: true, refund: null })
    await client`INSERT INTO charges (purchase_id, kind, amount, status) VALUES (${charge.id}, 'charge', 1, 'pending')
                 ON CONFLICT DO NOTHING`
    t.equal(await loadCharge(client, '01935f5e-0000-7000-8000-00000000ffff'), undefined)
  })

  t.test('markConfirming: succeeds once, and only while the units are held', async (t) => {
    const charge = await charged('pending')
    t.equal(await markConfirming(client, charge, 'pi_1'), true)
    t.match(await loadCharge(client, charge.id), { status: 'confirming', provider_id: 'pi_1' })
    t.equal(await markConfirming(client, charge, 'pi_2'), false, 'another job has marked it')
    const late = await charged('pending', '-1 s')
    t.equal(await markConfirming(client, late, 'pi_3'), false, 'the hold has expired')
  })

  t.test('recordOutcome: writes outcome and command together, once', async (t) => {
    const charge = await charged('confirming')
    const both = await Promise.all([1, 2].map(() => recordOutcome(client, charge, 'confirming', 'authorized', null)))
    t.same(both.sort(), [false, true])
    t.equal(await statusOf(charge.id), 'authorized')
    t.same(await commandsOf(charge.id), ['paid'])
  })

  t.test('charge in cancelling: cannot become authorized, can still end without money', async (t) => {
    const charge = await charged('confirming')
    t.equal(await markCancelling(client, charge.charge_id), true)
    t.equal(await markCancelling(client, charge.charge_id), false, 'another job cancels it')
    t.equal(await recordOutcome(client, charge, 'confirming', 'authorized', null), false)
    t.same(await commandsOf(charge.id), [])
    t.equal(await recordOutcome(client, charge, 'confirming', 'unavailable', 'cancelled'), true)
    t.same(await commandsOf(charge.id), ['unpaid'])
  })

  t.test('capture that takes no money: authorization_lost, unless a refund has ended the sale', async (t) => {
    const sold = await charged('capturing')
    t.equal(await recordCapture(client, sold, 'authorization_lost', 'expired'), true)
    t.equal(await statusOf(sold.id), 'authorization_lost')
    const refunded = await charged('capturing')
    await client`INSERT INTO charges (purchase_id, kind, amount) VALUES (${refunded.id}, 'refund', 500)`
    t.equal(await recordCapture(client, refunded, 'authorization_lost', 'expired'), false)
    t.equal(await recordRelease(client, refunded.id), true)
    t.match(await loadCharge(client, refunded.id), { status: 'released', refund: { status: 'released' } })
  })
})
