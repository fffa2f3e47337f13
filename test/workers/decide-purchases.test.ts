/** Decisions about purchases: for any queue the ledger adds up and no number falls below zero. */
import fc from 'fast-check'
import t from 'tap'
import { MOVES, PURCHASE_COMMANDS, PURCHASE_STATUSES, type PurchaseCommand } from '../../src/shared/domain/purchase.ts'
import { decidePurchases } from '../../src/workers/decide/purchases.ts'
import type { PurchaseItem, PurchaseRow, Resource } from '../../src/workers/decide/types.ts'

const NOW = 1_000_000
const REFS = ['product:a', 'product:b', 'account:w']

const resource = (id: string, available: number, held = 0, price = 10): Resource => ({
  id,
  kind: 'units',
  available,
  held,
  price: id.startsWith('account:') ? 1 : price,
  currency: 'USD',
  max_per_customer: null,
  holdings: new Map(),
  token: 7,
})
const purchase = (fields: Partial<PurchaseRow>): PurchaseRow => ({
  id: 'p',
  seq: 1,
  queue: 'product:a',
  items: [{ resource: 'product:a', units: 1 }],
  amount: null,
  currency: null,
  payment: { method: 'none' },
  hold_seconds: null,
  status: 'queued',
  expires_ms: null,
  created_ms: 0,
  customer: 'c',
  charge: null,
  hold_until_ms: null,
  replaces_id: null,
  ...fields,
})
const command = (kind: PurchaseCommand, row: PurchaseRow, id: string = kind): PurchaseItem => ({
  kind: 'command',
  purchase: row,
  command: { id, seq: 2, action: kind, created_ms: 0, payment: null },
})
const run = (queued: PurchaseItem[], ...resources: Resource[]) =>
  decidePurchases(queued, new Map(resources.map((r) => [r.id, r])), NOW)

t.test('random queues: the ledger adds up, and no number falls below zero', async (t) => {
  const rows = fc.array(
    fc.record({
      items: fc.array(
        fc.record({ resource: fc.constantFrom(...REFS, 'product:gone'), units: fc.integer({ min: 1, max: 4 }) }),
        {
          minLength: 1,
          maxLength: 4,
        },
      ),
      hold_seconds: fc.constantFrom(null, null, 5),
      wallet: fc.boolean(),
      commands: fc.array(fc.constantFrom<PurchaseCommand>('confirm', 'cancel', 'refund'), { maxLength: 3 }),
    }),
    { maxLength: 12 },
  )
  const stock = fc.tuple(fc.nat(12), fc.nat(12), fc.nat(120))
  fc.assert(
    fc.property(rows, stock, (made, stocks) => {
      const resources = REFS.map((ref, i) => resource(ref, stocks[i] ?? 0))
      const before = new Map(resources.map((r) => [r.id, { ...r }]))
      const queued = made.flatMap(({ wallet, commands, ...fields }, n): PurchaseItem[] => {
        const row = purchase({
          ...fields,
          id: `p${n}`,
          seq: n,
          ...(wallet ? { payment: { method: 'wallet', account: 'account:w' } } : {}),
        })
        return [{ kind: 'purchase', purchase: row }, ...commands.map((kind, c) => command(kind, row, `${n}.${c}`))]
      })
      const decision = run(queued, ...resources)
      for (const one of resources) {
        const old = before.get(one.id)
        const moved = decision.ledger.filter((m) => m.resource_id === one.id)
        const sum = (...reasons: string[]) =>
          moved.reduce((total, m) => (reasons.length === 0 || reasons.includes(m.reason) ? total + m.delta : total), 0)
        if (one.available < 0 || one.held < 0) throw new Error(`${one.id} went below zero`)
        if (one.available - (old?.available ?? 0) !== sum()) throw new Error(`${one.id}: the ledger does not add up`)
        if (one.held !== -sum('hold', 'release')) throw new Error(`${one.id}: holds do not add up`)
      }
      const effects = decision.ledger.map((m) => `${m.resource_id} ${m.purchase_id} ${m.reason}`)
      if (new Set(effects).size !== effects.length) throw new Error('an effect came twice')
      if (decision.purchases.some((change) => change.status === 'queued')) throw new Error('a change back to queued')
    }),
    { numRuns: 2_000 },
  )
  t.pass('2,000 generated lines')
})

t.test('the same item on two lines of one cart: checked as one (medusa#16502)', async (t) => {
  const items = [1, 2].map(() => ({ resource: 'product:a', units: 3 }))
  const decision = run([{ kind: 'purchase', purchase: purchase({ items }) }], resource('product:a', 5))
  t.match(decision.purchases, [{ status: 'rejected', reason: 'sold_out' }])
  t.same(decision.ledger, [])
})

t.test('item that names an account, also the paying one: rejected', async (t) => {
  const [account, product] = [resource('account:w', 100), resource('product:a', 5)]
  for (const payment of [{ method: 'none' }, { method: 'wallet', account: 'account:w' }] as const) {
    for (const refs of [['account:w'], ['product:a', 'account:w']]) {
      const items = refs.map((ref) => ({ resource: ref, units: 1 }))
      const row = purchase({ queue: refs[0] ?? '', items, payment })
      const { purchases, ledger } = run([{ kind: 'purchase', purchase: row }], account, product)
      t.match(purchases, [{ status: 'rejected', reason: 'wrong_kind' }])
      t.same(ledger, [])
    }
  }
})

t.test('amount beyond the largest safe integer: rejected with its own code', async (t) => {
  const price = 1_000_000_000_000
  const cart = (...units: number[]) =>
    purchase({ items: units.map((count, n) => ({ resource: n ? 'product:b' : 'product:a', units: count })) })
  const settled = (row: PurchaseRow) =>
    run(
      [{ kind: 'purchase', purchase: row }],
      resource('product:a', 20_000, 0, price),
      resource('product:b', 20_000, 0, price),
    ).purchases
  t.match(settled(cart(9_007)), [{ status: 'confirmed', amount: 9_007 * price }])
  t.match(settled(cart(9_008)), [{ status: 'rejected', reason: 'amount_too_large', amount: null }])
  t.match(settled(cart(5_000, 5_000)), [{ status: 'rejected', reason: 'amount_too_large' }], 'a sum of lines too')
})

t.test('wallet whose currency was changed: gets no refund in the new currency', async (t) => {
  const yen = { ...resource('account:w', 4_000), currency: 'JPY' }
  const payment = { method: 'wallet' as const, account: 'account:w' }
  const row = purchase({ status: 'confirmed', amount: 1_000, currency: 'USD', payment })
  const { commands, ledger } = run([command('refund', row)], resource('product:a', 5), yen)
  t.match(commands, [{ status: 'rejected', reason: 'currency_mismatch', observed_status: 'confirmed' }])
  t.same(ledger, [])
})

t.test('confirm, cancel and refund in every status: as the table says', async (t) => {
  for (const kind of PURCHASE_COMMANDS) {
    for (const status of PURCHASE_STATUSES) {
      const row = purchase({ status, amount: 10, expires_ms: NOW + 1 })
      const decision = run([command(kind, row)], resource('product:a', 5, 1))
      const [done] = decision.commands
      const to = MOVES[status][kind]
      if (to) t.match([done?.status, decision.purchases[0]?.status], ['done', to], `${kind} of ${status}`)
      else if (status === 'queued') t.equal(decision.skipped.length, 1, `${kind} waits behind its queued purchase`)
      else t.match([done?.status, done?.observed_status], ['rejected', status], `${kind} of ${status} is refused`)
    }
  }
})

t.test('confirm after the end of the hold: finds it expired, and its units are back', async (t) => {
  const shop = resource('product:a', 0, 1)
  const row = purchase({ status: 'held', amount: 10, expires_ms: NOW })
  const decision = run([command('confirm', row)], shop)
  t.match(decision.commands, [{ status: 'rejected', observed_status: 'expired' }])
  t.match([shop.available, shop.held], [1, 0])
})

t.test('units of an overdue hold: sold to the next purchase in the queue', async (t) => {
  const held = purchase({ id: 'old', status: 'held', amount: 10, expires_ms: NOW - 1 })
  const decision = run(
    [
      { kind: 'expired', purchase: held },
      { kind: 'purchase', purchase: purchase({ id: 'new' }) },
    ],
    resource('product:a', 0, 1),
  )
  t.match(decision.purchases, [
    { id: 'old', status: 'expired' },
    { id: 'new', status: 'confirmed' },
  ])
})

t.test('cancel queued behind its purchase: wins, once', async (t) => {
  const row = purchase({})
  const decision = run(
    [{ kind: 'purchase', purchase: row }, command('cancel', row, 'first'), command('cancel', row, 'second')],
    resource('product:a', 5),
  )
  t.match(decision.purchases, [{ status: 'cancelled' }])
  t.match(decision.commands, [
    { id: 'first', status: 'done', observed_status: 'queued' },
    { id: 'second', status: 'rejected', observed_status: 'cancelled' },
  ])
  t.same(decision.ledger, [])
})

t.test('items in two currencies: rejected', async (t) => {
  const row = purchase({ items: ['product:a', 'product:b'].map((ref) => ({ resource: ref, units: 1 })) })
  const decision = run([{ kind: 'purchase', purchase: row }], resource('product:a', 5), {
    ...resource('product:b', 5),
    currency: 'EUR',
  })
  t.match(decision.purchases, [{ status: 'rejected', reason: 'currency_mismatch' }])
})
