/** The lab: every race occurs without protection and not with it, in the shapes of the tutorials. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import t, { type Test } from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { startApi } from '../../src/api/server.ts'
import { readConfig } from '../../src/shared/config.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { openShop } from '../support/api-client.ts'
import { fromBundle, openWorld, until } from '../support/environment.ts'
import { type Answer, contract, operations } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const [api] = await Promise.all([world.startApi(), world.startWorker()])
const call = contract(api.url)
/** Starts another API in this process. */
async function inProcess(env: Record<string, string>) {
  const config = readConfig({ ...world.env, ...env })
  const one = await startApi({ config, metrics: createMetrics(), log: createLog('silent', 'test') })
  t.teardown(() => one.close())
  return one
}
const post = (path: string, body?: object) => call('POST', path, { ...(body && { body }) })
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)
const parallel = (n: number, path: string, body?: object) => Promise.all(upTo(n).map(() => post(path, body)))
const won = (answers: Answer[]) => answers.filter(({ status, body }) => status === 200 && body.success === true).length

t.teardown(async () => {
  // Wait until the only worker of this file has no queued rows, so that a test that ends early leaves no work.
  await until(async () => (await call('GET', '/api/purchases?status=queued')).body.data.length === 0).catch(() => {})
})

t.test('five buyers without a lock: all get the last unit, and the stock falls below zero', async (t) => {
  let oversold = 0
  for (let run = 0; run < 4; run++) {
    await post('/stock/1/reset', { stock: 1 })
    const answers = await parallel(5, '/purchase/without-lock/1', { quantity: 1 })
    const { stock } = (await call('GET', '/stock/1')).body
    t.equal(stock, 1 - won(answers))
    if (won(answers) > 1 && stock < 0) oversold++
  }
  t.ok(oversold >= 3, `oversold in ${oversold} of 4 runs`)
})

t.test('five buyers with a lock: exactly one gets the last unit, 100 times of 100', async (t) => {
  let right = 0
  // Ten products at once: a reset waits until the worker releases the lease of its product's queue.
  const runs = upTo(10).map(async (product) => {
    for (let run = 0; run < 10; run++) {
      await post(`/stock/${product}/reset`, { stock: 1 })
      const answers = await parallel(5, `/purchase/with-lock/${product}`, { quantity: 1 })
      const { stock } = (await call('GET', `/stock/${product}`)).body
      const refused = answers.filter(({ status, body }) => status === 400 && body.error === 'Out of stock').length
      if (won(answers) === 1 && refused === 4 && stock === 0) right++
    }
  })
  await Promise.all(runs)
  t.equal(right, 100)
})

t.test('ten buyers of one ticket: without a lock all get it, with a lock one', async (t) => {
  await post('/reset/1')
  const unsafe = await parallel(10, '/book-no-lock/1', { user_name: 'ada' })
  t.ok(won(unsafe) > 1, `${won(unsafe)} have the ticket`)
  t.match((await call('GET', '/events/1')).body, { total_tickets: 1, booked: won(unsafe), id: '1' })
  await post('/reset/1')
  const safe = await parallel(10, '/book-with-lock/1', { user_name: 'ada' })
  t.equal(won(safe), 1)
  t.equal(safe.filter(({ status, body }) => status === 400 && body.success === false && body.error).length, 9)
  t.match((await call('GET', '/events/1')).body, { total_tickets: 1, available_tickets: 0, booked: 1 })
})

t.test('ten payments of 100 from 1,000: with a lock 0 is left, without it spent money remains', async (t) => {
  t.same((await post('/demo/balance/reset')).body, { balance: 1000 })
  const unsafe = await parallel(10, '/demo/race-condition/no-lock')
  const { balance } = (await call('GET', '/demo/balance')).body
  t.equal(won(unsafe), 10)
  t.ok(balance > 0, `${balance} is left of 1,000 after 1,000 was paid`)
  await post('/demo/balance/reset')
  t.equal(won(await parallel(10, '/demo/race-condition/with-lock')), 10)
  t.same((await call('GET', '/demo/balance')).body, { balance: 0 })
  t.match(await post('/demo/race-condition/with-lock'), { status: 400, body: { error: 'Insufficient funds' } })
})

t.test('whole race: 200 with the response of every buyer, refusals too, and what is left', async (t) => {
  for (const [race, buyers, expected, left] of [
    ['inventory', 5, 1, 0],
    ['tickets', 10, 1, 0],
    ['balance', 10, 10, 0],
    ['drivers', 2, 1, 0],
  ] as const) {
    const { status, body } = await post(`/demo/races/${race}/with-lock`)
    t.match({ status, left: body.left }, { status: 200, left }, race)
    const got = body.responses.filter((one: Answer) => one.status < 300)
    t.same([body.responses.length, got.length], [buyers, expected], race)
  }
  const unsafe = (await post('/demo/races/inventory/without-lock')).body
  const won = unsafe.responses.filter((one: Answer) => one.status === 200).length
  t.equal(unsafe.left, 1 - won)
})

t.test('read: the variant that was used last since the reset', async (t) => {
  const stock = async () => (await call('GET', '/stock/sides')).body.stock
  t.equal(await stock(), 10, 'a product that was never reset has 10')
  t.match(await post('/purchase/without-lock/sides'), { status: 200, body: { remaining_stock: 9 } }, 'no body buys one')
  t.equal(await stock(), 9)
  t.match((await post('/purchase/with-lock/sides', { quantity: 3 })).body, {
    success: true,
    message: 'Purchase successful (WITH LOCK)',
    duration: /^\d+ms$/,
    remaining_stock: 7,
  })
  t.equal(await stock(), 7)
  await post('/purchase/without-lock/sides', { quantity: 2 })
  t.equal(await stock(), 7, 'of the other side')
  t.match((await post('/stock/sides/reset', { stock: 4 })).body, { productId: 'sides', stock: 4 })
  t.equal(await stock(), 4)
  t.match(await post('/purchase/with-lock/sides', { quantity: 5 }), { status: 400, body: { error: 'Out of stock' } })
  t.match(await post('/purchase/with-lock/sides', { quantity: 4 }), { status: 200, body: { remaining_stock: 0 } })
})

t.test('reset during a sale: the ledger balances in either order', async (t) => {
  await post('/stock/busy/reset', { stock: 20 })
  const sale = parallel(20, '/purchase/with-lock/busy', { quantity: 1 })
  const resets = await Promise.all([3, 8, 5].map((stock) => post('/stock/busy/reset', { stock })))
  t.same(
    resets.map(({ status }) => status),
    [200, 200, 200],
  )
  await sale
  t.ok((await call('GET', '/stock/busy')).body.stock >= 0)
})

t.test('two expired leases: only the newest of three workers writes', async (t) => {
  const { body } = await post('/demo/fencing/1')
  t.match(body, { success: true, order: { written_by: 3 }, without_guard: { written_by: 2, writes: 3 } })
  const [one, two, three] = body.workers
  t.match(
    [one, two],
    [
      { token: 1, lease: 'lost', outcome: 'rejected' },
      { token: 2, lease: 'lost', outcome: 'rejected' },
    ],
  )
  t.match(three, { token: 3, outcome: 'written', fencing_token: body.order.fencing_token })
  t.ok(one.fencing_token < two.fencing_token && two.fencing_token < three.fencing_token, 'real tokens, rising')
})

t.test('two runs on one order: serialized, and the fencing token rises', async (t) => {
  const both = await Promise.all([post('/demo/fencing/2'), post('/demo/fencing/2')])
  t.match(both, [{ body: { success: true } }, { body: { success: true } }])
  const fences = both.map(({ body }) => body.order.fencing_token)
  t.not(fences[0], fences[1])
})

/** Processes and folders that the Redlock demonstration may leave behind. */
const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith('holdfast-lab-')).length

t.test('five Redis: locks with two stopped, refuses with three; no server remains', async (t) => {
  const before = leftovers()
  const [one, other] = await Promise.all([post('/demo/redlock'), post('/demo/redlock')])
  t.match(one, { status: 200 })
  t.match(one.body, {
    success: true,
    steps: [
      { running: 5, stopped: 0, locked: true },
      { running: 3, stopped: 2, locked: true },
      { running: 2, stopped: 3, locked: false, message: /2 of 5/ },
    ],
  })
  const tokens = one.body.steps.map((step: { fencing_token: number | null }) => step.fencing_token)
  t.ok(tokens[0] < tokens[1] && tokens[2] === null, `tokens ${tokens}`)
  t.same(other.body.steps, one.body.steps, 'a concurrent request gets the same result')
  t.equal(leftovers(), before)
})

t.test('API stopped during the Redlock demonstration: its five Redis end too', async (t) => {
  const other = await inProcess({})
  const before = leftovers()
  const asked = other.app.inject({ method: 'POST', url: '/demo/redlock' })
  await until(() => leftovers() > before)
  await other.close()
  t.equal((await asked).statusCode, 503)
  t.equal(leftovers(), before)
})

/** `npm run lab -- …` */
function lab(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...fromBundle('ops/commands/lab.ts'), ...args],
      { cwd: ROOT },
      (_error, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    )
  })
}

t.test('npm run lab: shows both variants side by side', async (t) => {
  const names = ['inventory', 'drivers', 'fencing']
  const told = await Promise.all(names.map((name) => lab(name, `--url=${api.url}`, '--runs=2')))
  for (const { code, out, err } of told) {
    t.equal(code, 0, err)
    t.match(out, /^ +runs +requests +succeeded +expected +left in stock +oversold/)
  }
  const [inventory, drivers, fencing] = told.map(({ out }) => out.trim().split('\n').slice(1))
  t.match(inventory, [/^without lock +2 +10 /, /^with lock +2 +10 +2 +2 +0 +0 +0$/])
  t.match(drivers, [/^without lock +2 +4 /, /^with lock +2 +4 +2 +2 +1 rides +0 +0$/])
  t.match(fencing, [/^without guard +2 +6 +6 +2 +written by 2 +4 +2$/, /^fenced +2 +6 +2 +2 +written by 3 +0 +0$/])
})

t.test('LAB=0: no lab routes, none in the document, and npm run lab says so', async (t) => {
  const { app } = await inProcess({ LAB: '0' })
  const { paths } = app.swagger() as { paths: object }
  const labs = operations.filter(({ operation }) => operation.tags[0] === 'lab')
  t.ok(labs.length >= 15)
  for (const { path, method } of labs) {
    t.notOk(Object.hasOwn(paths, path), path)
    const url = path.replace(/\{\w+\}/, '1')
    t.equal((await app.inject({ method, url, ...(method === 'post' && { payload: {} }) })).statusCode, 404, path)
  }
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  t.match(await lab('inventory', `--url=${url}`), { code: 1, err: /not measured: .* 404 \(is LAB=0 there\?\)/ })
})

t.test('lab routes: require the same keys as the others', async (t) => {
  const { app } = await inProcess({ API_KEYS: 'secret' })
  const reset = (headers: Record<string, string>) => app.inject({ method: 'POST', url: '/stock/keys/reset', headers })
  t.equal((await reset({})).statusCode, 401)
  t.equal((await reset({ 'x-api-key': 'secret' })).statusCode, 200)
})

t.test('production: no lab, and LAB=1 is refused', async (t) => {
  const production = { ...world.env, NODE_ENV: 'production', API_KEYS: 'a', ADMIN_KEYS: 'b' }
  t.throws(() => readConfig({ ...production, LAB: '1' }), { message: 'LAB must not be 1 in production' })
  t.equal(readConfig({ ...world.env, LAB: '' }).lab, true)
  for (const LAB_PAUSE_MS of ['long', '-1', '10001']) {
    t.throws(() => readConfig({ ...world.env, LAB_PAUSE_MS }), { message: /^LAB_PAUSE_MS must be a whole number/ })
  }
})

t.test('after all tests: the invariants hold', async (t: Test) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  await until(async () => (await shop.queued()) === 0)
  await shop.verified()
})
