/** The k6 scripts and the runner that replaces k6: they do what they document, and neither fails silently. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readScenarios } from '../../load/runner/scenarios.ts'
import { ROOT } from '../../ops/dev/install.mjs'
import { openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

/** Runs `npm run load` without npm. `stop`: sends Ctrl-C when it resolves. */
async function load(t: Test, args: string[], env: Record<string, string> = {}, stop?: Promise<unknown>) {
  const { PATH = '', HOME = '' } = process.env
  const child = spawn(process.execPath, ['--import=tsx', 'load/runner/run.ts', '--runner=node', ...args], {
    cwd: ROOT,
    env: { PATH, HOME, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  }
  void stop?.then(() => child.kill('SIGINT'))
  const [code] = (await once(child, 'close')) as [number]
  return { code, text }
}

/** Starts a server that sends no answer before `answer` is called. */
async function slowServer(t: Test) {
  const waiting: (() => void)[] = []
  const server = createServer((request, response) => {
    if (request.url !== '/slow') response.end('{}')
    else waiting.push(() => response.end('{}'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    waiting,
    answer: () => waiting.splice(0).forEach((one) => void one()),
  }
}

/** Writes each script to a separate file. */
function scripts(t: Test) {
  const folder = t.testdir({})
  let count = 0
  return (text: string): string => {
    const name = `test-${process.pid}-${++count}`
    writeFileSync(join(folder, `${name}.js`), text)
    t.teardown(() => rmSync(join(ROOT, `load/reports/${name}.html`), { force: true }))
    return join(folder, `${name}.js`)
  }
}

const SCENARIO = `{ executor: 'constant-arrival-rate', rate: 20, duration: '1s', preAllocatedVUs: 5, maxVUs: 8 }`

t.test('every script, shortened: each threshold and invariant holds, and a report is written', async (t) => {
  const world = await openWorld(t)
  const [{ url }] = await Promise.all([world.startApi({ API_KEYS: 'key', ADMIN_KEYS: 'admin' }), world.startWorker()])
  const env = { DATABASE_URL: world.env.DATABASE_URL, API_KEY: 'admin' }
  const runs = {
    'flash-sale': ['--buyers=300', '--units=30', '--rate=300'],
    steady: ['--rate=8', '--seconds=1', '--products=5'],
    bookings: ['--stays=20', '--rides=8', '--seconds=1', '--properties=3', '--drivers=3'],
    locks: ['--rate=10', '--seconds=1', '--locks=3'],
    'contended-carts': ['--rate=30', '--seconds=1', '--products=3', '--units=8'],
  }
  const scripts = readdirSync(join(ROOT, 'load/scripts')).filter((file) => file.endsWith('.js') && file !== 'api.js')
  t.same(Object.keys(runs).sort(), scripts.map((file) => file.slice(0, -3)).sort(), 'there is no other script')
  const slow = '--p95-ms=20000'
  const all = await Promise.all(
    Object.entries(runs).map(async ([name, args]) => ({
      name,
      ...(await load(t, [name, `--url=${url}`, slow, ...args], env)),
    })),
  )
  for (const { name, code, text } of all) {
    t.equal(code, 0, `${name}\n${text}`)
    t.match(text, /all \d+ invariants hold/, `${name}: the database was asked`)
    t.notMatch(text, /✗|ERROR/, name)
    const report = readFileSync(join(ROOT, 'load/reports', `${name}.html`), 'utf8')
    t.equal(report.match(/<svg/g)?.length, 3, `${name}: three charts`)
    t.notMatch(report, /(src|href)=|undefined|NaN/, `${name}: the report needs nothing beside it`)
  }
  const [sale] = all
  t.match(sale?.text, /sold\.+: 30 /)
  t.match(sale?.text, /sold_out\.+: 270 /)
  t.match(sale?.text, /iterations\.+: 300 /)
  const shop = openShop(t, [url], world.env.DATABASE_URL)
  const [row] = await shop.client`
    SELECT count(*) FILTER (WHERE status = 'confirmed')::int AS sold, count(*)::int AS buyers FROM purchases
    WHERE queue LIKE 'product:flash-%'`
  t.match(row, { sold: 30, buyers: 300 }, 'the summary says what the database says')
})

t.test(
  'slow answers: arrivals keep their rate, iterations without a free user are dropped, exit code 99',
  async (t) => {
    const server = await slowServer(t)
    const file = scripts(t)(
      `import http from 'k6/http'
    import { check } from 'k6'
    export const options = {
      scenarios: { buyers: ${SCENARIO} },
      thresholds: { dropped_iterations: ['count==0'], iterations: ['count==8'], 'http_reqs{name:nobody}': ['count==0'] },
    }
    export default async () => {
      const answer = await http.asyncRequest('GET', __ENV.BASE_URL + '/slow')
      check(answer, { answered: (one) => one.status === 200 })
    }
    export async function teardown() { await http.asyncRequest('GET', __ENV.BASE_URL + '/livez') }`,
    )
    const run = load(t, [file, `--url=${server.url}`])
    // The last iteration is due after 950 ms. Waiting requests are answered after the second is over.
    const timer = setInterval(() => {
      if (server.waiting.length === 8) setTimeout(server.answer, 1_000)
    }, 200)
    const { code, text } = await run
    clearInterval(timer)
    t.equal(code, 99, text)
    // 20 iterations are due. Five find a user. Then one of every two is dropped and adds a user for the next one, up to
    // eight users.
    t.match(text, /dropped_iterations\.+: 12 /)
    t.match(text, /✗ 'count==0' count=12/)
    t.match(text, /✓ 'count==8' count=8/)
    t.match(text, /thresholds on dropped_iterations do not hold/)
  },
)

t.test('Ctrl-C: running iterations are interrupted, teardown runs, exit code 105', async (t) => {
  const server = await slowServer(t)
  const file = scripts(t)(
    `import http from 'k6/http'
    export const options = { scenarios: { buyers: { executor: 'constant-arrival-rate', rate: 20, duration: '1h',
      preAllocatedVUs: 5 } } }
    export default () => http.asyncRequest('GET', __ENV.BASE_URL + '/slow')
    export const teardown = () => http.asyncRequest('GET', __ENV.BASE_URL + '/teardown')`,
  )
  const { code, text } = await load(
    t,
    [file, `--url=${server.url}`],
    {},
    until(() => server.waiting.length === 5),
  )
  t.equal(code, 105, text)
  t.match(text, /http_reqs\.+: 1 /, 'the five are interrupted, and teardown has asked')
})

t.test('wrong script or variable: the cause in one line, with its own exit code', async (t) => {
  const { url } = await slowServer(t)
  const options = (thresholds: string, more = '') =>
    `export const options = { scenarios: { buyers: ${SCENARIO} }, thresholds: ${thresholds}${more} }\n`
  const body = 'export default () => { null.length }\n'
  const cases: [what: string, text: string, args: string[], code: number, says: RegExp][] = [
    ['an iteration that throws', options('{}') + body, [], 107, /ERROR in \d+ iterations: Cannot read prop/],
    [
      'setup that throws',
      `${options('{}')}${body}export const setup = () => { throw new Error('no shop') }`,
      [],
      107,
      /setup\(\): Error: no shop/,
    ],
    [
      'a threshold that need not see the end',
      `export const options = { scenarios: { one: { executor: 'constant-arrival-rate', rate: 5, duration: '1h',
        preAllocatedVUs: 1 } }, thresholds: { iterations: [{ threshold: 'count<2', abortOnFail: true }],
        checks: [{ threshold: 'rate>0', abortOnFail: true }] } }
      export default () => {}`,
      [],
      99,
      /threshold count<2 of iterations does not hold: stopping/,
    ],
    ['a threshold on nothing', options("{ solld: ['count>0'] }") + body, [], 104, /no metric solld/],
    ['a variable that nobody reads', options('{}') + body, ['--raet=3'], 104, /does not read RAET/],
    ['an API that does not answer', '', ['--url=http://127.0.0.1:9'], 2, /no API answers at http:\/\/127\.0\.0\.1:9\//],
  ]
  const file = scripts(t)
  await Promise.all(
    cases.map(async ([what, text, args, code, says]) => {
      const run = await load(t, [file(text), `--url=${url}`, ...args])
      t.equal(run.code, code, what)
      t.match(run.text, says, what)
    }),
  )
})

t.test('installed k6: gets the script, its variables and the path of its report', async (t) => {
  const { url } = await slowServer(t)
  const folder = t.testdir({})
  const fake = join(folder, 'k6')
  writeFileSync(fake, '#!/bin/sh\necho "k6 $* to $K6_WEB_DASHBOARD_EXPORT"\n[ "$1" = version ] || exit 99\n')
  chmodSync(fake, 0o755)
  const PATH = `${folder}:${process.env.PATH}`
  const { code, text } = await load(t, ['locks', '--runner=k6', '--rate=5', `--url=${url}`], { PATH })
  t.equal(code, 99, 'its exit code is kept')
  t.match(
    text,
    new RegExp(`k6 run -e RATE=5 -e BASE_URL=${url} \\S+/load/scripts/locks\\.js to \\S+/load/reports/locks\\.html`),
  )
})

t.test('constant and ramping rate: iterations are due by the clock', async (t) => {
  const vus = { preAllocatedVUs: 1 }
  const [constant, ramp] = readScenarios({
    constant: { executor: 'constant-arrival-rate', rate: 90, timeUnit: '1m', duration: '4s', ...vus },
    ramp: {
      executor: 'ramping-arrival-rate',
      startRate: 10,
      stages: [
        { target: 30, duration: '2s' },
        { target: 5, duration: '0s' },
        { target: 5, duration: '1s' },
      ],
      ...vus,
    },
  })
  t.same(
    [0, 0.6, 0.7, 3.9, 4, 9].map((at) => constant?.due(at)),
    [1, 1, 2, 6, 6, 6],
  )
  t.equal(constant?.iterations, 6)
  // 10 to 30 a second in two seconds gives 40 iterations; then the rate drops to 5 for a second.
  t.same(
    [0, 1, 2, 2.5, 3, 9].map((at) => ramp?.due(at)),
    [0, 15, 40, 42, 45, 45],
  )
  t.same([ramp?.rate(1), ramp?.rate(2.5), ramp?.iterations, ramp?.duration_s], [20, 5, 45, 3])
  for (const [said, why] of [
    [{ executor: 'shared-iterations', vus: 1 }, /none of the executors here/],
    [{ executor: 'constant-arrival-rate', rate: 1, duration: '900ms', ...vus }, /at least 1s/],
    [{ executor: 'constant-arrival-rate', rate: 1.5, duration: '2s', ...vus }, /whole number/],
    [{ executor: 'constant-arrival-rate', rate: 1, duration: '2 s', ...vus }, /no duration/],
    [{ executor: 'constant-arrival-rate', rate: 1, duration: '2s', stages: [], ...vus }, /does not know stages/],
  ] as const) {
    t.throws(() => readScenarios({ one: said }), { message: why })
  }
})
