/**
 * Tests the checker of `npm run chaos`, which must find each kind of false record, and runs the chaos for a few
 * seconds. Longer runs need the command itself.
 */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { openShop } from '../support/api-client.ts'
import { openWorld } from '../support/environment.ts'
import { check } from './checker.ts'
import { type Evidence, type Row, unsettled } from './evidence.ts'
import { describe, plan } from './nemesis.ts'
import { PLANTED } from './planted.ts'
import type { Entry } from './record.ts'
import { recoveryOf } from './recovery.ts'
import { runChaos } from './run.ts'

const id = (n: number) => `01935f5e-0000-7000-8000-${String(n).padStart(12, '0')}`
const HOT = 'product:hot-1'
const hot = [{ resource: HOT, units: 1 }]

const row = (n: number, more: Partial<Row>): Row => ({
  id: id(n),
  kind: 'purchase',
  seq: n,
  queue: HOT,
  customer: `hot-${n}`,
  items: hot,
  amount: 10,
  method: 'none',
  status: 'confirmed',
  reason: null,
  replaces_id: null,
  key: null,
  created_ms: n,
  ...more,
})
/** Returns the n-th request, sent in the n-th second and answered at once. */
const entry = (n: number, more: Partial<Entry>): Entry => ({
  n,
  op: 'hot',
  intent: `hot-${n}`,
  from_ms: n * 1000,
  until_ms: n * 1000 + 10,
  method: 'POST',
  path: '/api/purchases',
  body: { customer: `hot-${n}`, lines: hot },
  status: 201,
  ...more,
})
const told = (n: number, status: string) => ({ id: id(n), status, seq: n, customer: `hot-${n}` })

/** Returns a short, correct history. */
function honest(): Evidence & { rows: Row[]; entries: Entry[] } {
  const payment = { method: 'card', token: 'tok_visa' }
  const tickets = [{ resource: 'ticket:1', units: 2 }]
  return {
    rows: [
      row(1, {}),
      row(2, { key: 'k2' }),
      row(3, { status: 'rejected', reason: 'sold_out' }),
      row(4, { queue: 'ticket:1', customer: 'card-4', items: tickets, method: 'card', amount: 500 }),
      row(5, { kind: 'booking', queue: 'property:1', customer: 'stay-5', items: [], status: 'cancelled' }),
      row(6, { queue: 'ticket:1', customer: 'card-6', items: tickets, method: 'card', amount: 500, status: 'failed' }),
    ],
    entries: [
      entry(1, { told: told(1, 'confirmed') }),
      entry(2, { key: 'k2', status: 202, told: told(2, 'queued') }),
      entry(3, { key: 'k2', body: { customer: 'hot-2', lines: hot }, replayed: true, told: told(2, 'confirmed') }),
      entry(4, { status: 409, code: 'sold_out', body: { customer: 'hot-3', lines: hot }, told: told(3, 'rejected') }),
      entry(5, {
        op: 'card',
        // Two lines of one resource count as one.
        body: { customer: 'card-4', lines: [1, 1].map((units) => ({ resource: 'ticket:1', units })), payment },
        told: { id: id(4), status: 'confirmed' },
      }),
      entry(6, {
        op: 'stay',
        path: '/api/bookings',
        body: { customer: 'stay-5', resource: 'property:1' },
        told: { id: id(5), status: 'accepted' },
      }),
      entry(7, {
        op: 'stay',
        path: `/api/bookings/${id(5)}/cancel`,
        key: 'c5',
        status: 200,
        told: { id: id(5), status: 'cancelled' },
      }),
      entry(8, { op: 'look', method: 'GET', path: `/api/purchases/${id(1)}`, status: 200, told: told(1, 'confirmed') }),
      entry(9, {
        op: 'restock',
        path: '/api/resources/ticket/1/restock',
        body: { delta: 5 },
        key: 'r9',
        status: 200,
        version: 2,
      }),
      entry(10, { op: 'resize', method: 'PUT', path: '/api/resources/ticket/1', status: 200, version: 3 }),
      entry(11, { op: 'lease', path: '/api/leases', body: { resource: 'job:1' }, token: 100 }),
      entry(12, { op: 'lease', path: '/api/leases', body: { resource: 'job:1' }, token: 101 }),
      entry(13, {
        op: 'otherBody',
        intent: 'o',
        key: 'k2',
        body: { customer: 'hot-2', lines: hot },
        told: told(2, 'confirmed'),
      }),
      entry(14, { op: 'otherBody', intent: 'o', key: 'k2', body: { customer: 'hot-2', lines: [] }, status: 422 }),
      entry(15, { op: 'sell all', status: 201, body: {} }),
      entry(16, { op: 'sell one more', status: 409, body: {} }),
      entry(17, { status: 503, body: { customer: 'hot-17', lines: hot } }),
      entry(18, { status: 0, body: { customer: 'hot-18', lines: hot } }),
    ],
    commands: [{ key: 'c5', status: 'done' }],
    restocks: [{ key: 'r9', delta: 5 }],
    lines: new Map([[HOT, 2]]),
    provider: new Map([
      [id(4), { taken: 1, kept: 500, open: 0 }],
      [id(6), { taken: 0, kept: 0, open: 0 }],
    ]),
    invariants: [{ invariant: 'never oversold', looked_at: 1, offenders: [] }],
    fallen: [],
    faults: 1,
    lingering: { looks: 3, rows: [] },
  }
}

const broken = (evidence: Evidence) =>
  check(evidence).flatMap(({ invariant, offenders }) => (offenders.length > 0 ? [invariant] : []))

type Story = ReturnType<typeof honest>
const change = (story: Story, n: number, more: Partial<Entry>) => {
  story.entries[n - 1] = { ...(story.entries[n - 1] as Entry), ...more }
}
const rewrite = (story: Story, n: number, more: Partial<Row>) => {
  story.rows[n - 1] = { ...(story.rows[n - 1] as Row), ...more }
}

/** what is falsified, the claim that must find it, and the change */
const LIES: [string, RegExp, (story: Story) => unknown][] = [
  ['a 500', /contract knows/, (s) => change(s, 17, { status: 500 })],
  ['a 404 on what was told', /contract knows/, (s) => change(s, 8, { status: 404 })],
  ['a 202 whose row is nowhere', /what was accepted exists/, (s) => s.rows.splice(1, 1)],
  [
    'a row with fewer units than were asked for',
    /what was accepted exists/,
    (s) => rewrite(s, 4, { items: [{ resource: 'ticket:1', units: 1 }] }),
  ],
  ['a row that is still queued', /come to one end/, (s) => rewrite(s, 3, { status: 'queued' })],
  [
    'a row that is queued for long while nothing else happens',
    /liveness/,
    (s) => Object.assign(s, { lingering: { looks: 3, rows: [`${id(3)} in ${HOT}`] } }),
  ],
  ['a hold that never ends', /come to one end/, (s) => rewrite(s, 2, { status: 'held' })],
  ['a row that could not be decided', /come to one end/, (s) => rewrite(s, 6, { reason: 'unprocessable' })],
  ['told confirmed, and then rejected', /contradicted later/, (s) => change(s, 8, { told: told(1, 'rejected') })],
  ['told confirmed, and in the end expired', /contradicted later/, (s) => rewrite(s, 1, { status: 'expired' })],
  [
    'told another place in the line',
    /contradicted later/,
    (s) => change(s, 1, { told: { ...told(1, 'confirmed'), seq: 9 } }),
  ],
  ['told 202, and withdrawn', /withdrawn/, (s) => rewrite(s, 2, { status: 'cancelled', reason: 'not_acknowledged' })],
  ['a replay that tells another id', /same key tells/, (s) => change(s, 3, { told: told(1, 'confirmed') })],
  [
    'two rows of one key',
    /one intent has one row/,
    (s) => s.rows.push(row(7, { key: 'k2', customer: 'fan-1', queue: 'product:a' })),
  ],
  [
    'two rows of one buyer without a key',
    /one intent has one row/,
    (s) => s.rows.push(row(7, { customer: 'card-4', queue: 'product:a' })),
  ],
  ['a key that buys something else', /another body is refused/, (s) => change(s, 14, { status: 202 })],
  ['sold to one who came after a sold_out', /first come, first served/, (s) => rewrite(s, 3, { seq: 0 })],
  ['one unit too many', /as many are sold/, (s) => s.lines instanceof Map && s.lines.set(HOT, 1)],
  ['one unit left, and a buyer refused', /as many are sold/, (s) => s.lines instanceof Map && s.lines.set(HOT, 3)],
  ['cancelled without a request', /commanded so/, (s) => change(s, 7, { path: `/api/bookings/${id(5)}/complete` })],
  [
    'told done, and the command was refused',
    /commanded so/,
    (s) => Object.assign(s, { commands: [{ key: 'c5', status: 'rejected' }] }),
  ],
  ['a restock that is not in the ledger', /restock counts once/, (s) => Object.assign(s, { restocks: [] })],
  [
    'a restock of another amount',
    /restock counts once/,
    (s) => Object.assign(s, { restocks: [{ key: 'r9', delta: 6 }] }),
  ],
  ['a version told to two', /no change of a resource is lost/, (s) => change(s, 10, { version: 2 })],
  ['a token given twice', /tokens of leases rise/, (s) => change(s, 12, { token: 100 })],
  [
    'money kept for what failed',
    /the provider has the money/,
    (s) => s.provider instanceof Map && s.provider.set(id(6), { taken: 1, kept: 500, open: 0 }),
  ],
  [
    'sold by card, and never paid',
    /the provider has the money/,
    (s) => s.provider instanceof Map && s.provider.delete(id(4)),
  ],
  [
    'a reservation that is never let go',
    /the provider has the money/,
    (s) => s.provider instanceof Map && s.provider.set(id(6), { taken: 0, kept: 0, open: 1 }),
  ],
  ['units that are there and not sold', /everything that can be sold/, (s) => change(s, 15, { status: 409 })],
  ['one more than there was', /everything that can be sold/, (s) => change(s, 16, { status: 201 })],
  ['a run in which nothing was hurt', /a fault happened/, (s) => Object.assign(s, { faults: 0 })],
  ['a process that ended by itself', /ended by itself/, (s) => Object.assign(s, { fallen: ['worker-1 (code 1)'] })],
  [
    'what npm run verify finds',
    /never oversold/,
    (s) => Object.assign(s, { invariants: [{ invariant: 'never oversold', looked_at: 1, offenders: ['product:1'] }] }),
  ],
]

t.test('checker: finds nothing in a correct history, and each falsification', async (t) => {
  t.same(broken(honest()), [])
  for (const [lie, claim, tell] of LIES) {
    const story = honest()
    tell(story)
    t.ok(
      broken(story).some((one) => claim.test(one)),
      `${lie}: ${broken(story).join('; ')}`,
    )
  }
})

t.test('plan: the same faults for the same seed, others for another seed, and every kind occurs', async (t) => {
  const texts = (seed: number) => plan(seed, 1_000, 120_000).map((fault) => `${fault.at_ms} ${describe(fault)}`)
  t.same(texts(1), texts(1))
  t.notSame(texts(1), texts(2))
  t.ok(new Set(plan(1, 0, 120_000).map((fault) => fault.kind)).size >= 11)
  for (const { at_ms, for_ms } of plan(3, 1_000, 30_000)) t.ok(at_ms >= 1_000 && at_ms + for_ms <= 30_000)
})

t.test('planted faults: the sources still load without the guard', async (t) => {
  const hook = new URL('../races/without.mjs', import.meta.url).pathname
  for (const { name, code } of PLANTED) {
    const files = [...new Set(code.map(({ file }) => join(ROOT, file)))]
    const body = files.map((file) => `await import(${JSON.stringify(file)})`).join('; ')
    const args = ['--import=tsx', '--input-type=module', '-e', body]
    const env = { ...process.env, NODE_OPTIONS: `--import=${hook}`, TEST_CODE_PATCH: JSON.stringify(code) }
    const { stderr } = await promisify(execFile)(process.execPath, args, { cwd: ROOT, env })
    t.equal(stderr.match(/^without: /gm)?.length, code.length, `${name}: ${stderr}`)
  }
})

t.test('drain: names the rows for which it waits', async (t) => {
  const world = await openWorld(t)
  const { url } = await world.startApi()
  const shop = openShop(t, [url], world.env.DATABASE_URL)
  t.same(await unsettled(shop.client), [])
  const ref = await shop.units('product', 5)
  const body = JSON.stringify({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
  const headers = { 'content-type': 'application/json' }
  for (let n = 0; n < 2; n++) {
    t.equal((await fetch(`${url}/api/purchases`, { method: 'POST', headers, body })).status, 202, 'no worker is there')
  }
  t.same(await unsettled(shop.client), ['2 purchases queued'])
})

t.test('recovery: counted from the last fault', async (t) => {
  const calm = [30, 20, 10, 10, 10, 10]
  const times = { first_ms: 6_000, last_ms: 8_000 }
  t.same(recoveryOf([...calm, 0, 0, 0, 0, 10, 10, 10, 10], times, 14_000), { before: 10, after_s: 2, last: 10 })
  t.match(recoveryOf([...calm, 0, 0, 5, 5, 5, 5, 5, 5], times, 14_000), { before: 10, after_s: undefined, last: 5 })
})

t.test('a few seconds of chaos: faults in processes, servers and network, and every claim holds', async (t) => {
  const { findings, faults, entries, load_ms, drain_ms } = await runChaos(t, {
    seed: 22,
    seconds: 7,
    rate: 12,
    calm_s: [0.5, 0.5],
  })
  t.comment(
    `${entries.length} requests, ${load_ms} ms of load, ${drain_ms} ms until all was over; ${faults.map(describe).join('; ')}`,
  )
  for (const { invariant, looked_at, offenders } of findings) t.same(offenders, [], `${invariant} (${looked_at})`)
  t.ok(faults.length >= 2)
  t.ok(entries.filter((one) => one.status === 201).length > 10)
})
