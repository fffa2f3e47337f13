/** A sale through real API and worker processes: first come, first served, and the ledger balances. */
import t from 'tap'
import { openShop, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }

t.test('two APIs, three workers', async (t) => {
  const world = await openWorld(t)
  const [api, second] = await Promise.all([
    world.startApi(),
    world.startApi(),
    ...[1, 2, 3].map(() => world.startWorker()),
  ])
  const shop = openShop(t, [api?.url ?? '', second?.url ?? ''], world.env.DATABASE_URL)
  const one = (resource: string) => [{ resource, units: 1 }]

  await t.test('500 buyers at once for 100 units: the first 100 get one (woocommerce#44273, spree#3808)', async (t) => {
    const ref = await shop.units('product', 100)
    const buyers = Array.from({ length: 500 }, (_, n) => shop.insist({ customer: `c${n}`, lines: one(ref) }, WAIT))
    t.same(tally(await Promise.all(buyers)), { '201 confirmed': 100, '409 sold_out': 400 })
    const [order] = await shop.client<{ last: number; first: number }[]>`
      SELECT max(seq) FILTER (WHERE status = 'confirmed') AS last, min(seq) FILTER (WHERE status = 'rejected') AS first
      FROM purchases WHERE queue = ${ref}`
    t.ok(Number(order?.last) < Number(order?.first), 'first come, first served, across both APIs')
    t.match(await shop.resource(ref), { available: 0, sold: 100, held: 0 })
  })

  await t.test(
    'carts {A,B} and {B,A} at once, with duplicate items: no deadlock, no part of a cart (medusa#16285)',
    async (t) => {
      const [a, b] = [await shop.units('product', 60), await shop.units('product', 100)]
      const carts = Array.from({ length: 200 }, (_, n) => {
        const lines = n % 2 ? [...one(a), ...one(b)] : [...one(b), ...one(a), ...one(b)]
        return shop.insist({ customer: `c${n}`, lines }, WAIT)
      })
      const answers = await Promise.all(carts)
      const confirmed = answers.filter((answer) => answer.status === 201)
      t.equal(answers.filter((answer) => answer.status === 409).length, 200 - confirmed.length)
      const taken = confirmed.flatMap((answer) => answer.body.lines as { resource: string; units: number }[])
      const sold = (ref: string) => taken.reduce((sum, line) => sum + (line.resource === ref ? line.units : 0), 0)
      t.equal((await shop.resource(a)).sold, sold(a), 'what was confirmed is what was sold')
      t.equal((await shop.resource(b)).sold, sold(b))
      t.ok(sold(a) === 60 || sold(b) >= 99, 'and it stopped because one of them was gone')
    },
  )

  await t.test('carts against single buyers of the second resource: every purchase is settled', async (t) => {
    const [a, b] = [await shop.units('product', 1_000), await shop.units('product', 1_000)]
    const answers = await Promise.all(
      Array.from({ length: 300 }, (_, n) =>
        shop.insist({ customer: `c${n}`, lines: n % 3 === 0 ? [...one(a), ...one(b)] : one(b) }, WAIT),
      ),
    )
    t.same(tally(answers), { '201 confirmed': 300 })
    t.match([await shop.resource(a), await shop.resource(b)], [{ sold: 100 }, { sold: 300 }])
  })

  await t.test('confirm and cancel of one hold, ten times each at once: one wins, the others get 409', async (t) => {
    const ref = await shop.units('product', 1)
    const { body } = await shop.buy({ customer: 'c', lines: one(ref), hold_seconds: 60 }, WAIT)
    t.equal(body.status, 'held')
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) => shop.command(body.id, n % 2 ? 'confirm' : 'cancel')),
    )
    t.equal(answers.filter((answer) => answer.status === 200).length, 1)
    t.equal(answers.filter((answer) => answer.status === 409 && answer.body.code === 'wrong_status').length, 19)
  })

  await t.test('overdue hold: the next purchase in the queue gets its units', async (t) => {
    const ref = await shop.units('product', 1)
    const { body } = await shop.buy({ customer: 'slow', lines: one(ref), hold_seconds: 1 }, WAIT)
    await until(async () => (await shop.resource(ref)).available === 1, { what: 'the hold to run out' })
    t.match(await shop.buy({ customer: 'next', lines: one(ref) }, WAIT), { status: 201 })
    t.match(await shop.command(body.id, 'confirm'), {
      status: 409,
      body: { code: 'wrong_status', current_status: 'expired' },
    })
  })

  await shop.verified()
})
