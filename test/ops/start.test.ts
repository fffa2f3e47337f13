import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createClient } from 'holdfast/client'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { anyFreePort, identityOf } from '../../ops/dev/process-registry.mjs'
import { until } from '../support/environment.ts'

const folder = join(process.env.HOLDFAST_TEST_FOLDER ?? t.testdir({}), 'start')
const port = await anyFreePort()
t.setTimeout(300_000)

type Scope = { teardown(step: () => void): void }

/** Runs `npm start` without npm, in a separate folder and without this machine's servers. */
const start = (t: Scope, extra: Record<string, string> = {}, ...args: string[]) =>
  launch(t, [process.execPath, 'ops/dev/start.mjs', ...args], extra)

function launch(t: Scope, [command = '', ...args]: string[], extra: Record<string, string> = {}) {
  const { PATH = '', HOME = '' } = process.env
  const env = { PATH, HOME, HOLDFAST_DATA_DIR: folder, PORT: String(port), ...extra }
  const child = spawn(command, args, {
    cwd: ROOT,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  }
  const exited = new Promise<string>((resolve) => {
    child.once('close', (code, signal) => resolve(signal ?? `code ${code}`))
  })
  t.teardown(() => {
    child.kill('SIGTERM')
    // If it outlives npm, it stops when its log has no reader.
    for (const stream of [child.stdout, child.stderr]) stream.destroy()
  })
  const says = (what: RegExp) =>
    until(() => what.exec(text), { timeout_ms: 120_000, what: `${what}` }).catch((error: Error) => {
      throw new Error(`${error.message}\n${text}`)
    })
  return { child, exited, says, text: () => text, ready: () => says(/ready: Swagger UI is at (\S+)/) }
}

/** Runs `npm run NAME` without npm as in another terminal, where only the data folder is known. */
async function beside(entry: string, args: string[] = [], extra: Record<string, string> = {}) {
  const { PATH = '', HOME = '' } = process.env
  const child = spawn(process.execPath, ['--import=tsx', entry, ...args], {
    cwd: ROOT,
    env: { PATH, HOME, HOLDFAST_DATA_DIR: folder, ...extra },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  }
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, text }
}

const listens = (host: string, port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, host, () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

/** returns pid + start time of every process that runs for this folder */
const running = () => readdirSync(join(folder, 'run')).map((name) => readFileSync(join(folder, 'run', name), 'utf8'))
const stillRuns = (identity: string) => identityOf(Number.parseInt(identity, 10)) === identity

const holdfast = createClient({ url: `http://127.0.0.1:${port}` })

const buy = (more: { payment?: { method: 'card'; token: string } } = {}) =>
  holdfast.post('/api/purchases', {
    params: { header: { prefer: 'wait=10' } },
    body: { customer: 'someone', lines: [{ resource: 'product:1', units: 1 }], ...more },
  })

const available = async () => {
  const path = { type: 'product', id: '1' }
  return (await holdfast.get('/api/resources/{type}/{id}', { params: { path } })).available
}

t.test('first start: a confirmed purchase; start after a kill -9: finds the data and ends the orphans', async (t) => {
  const first = start(t, {}, 'worker=2')
  await first.ready()
  t.equal(await available(), 10, 'the samples are loaded')
  t.equal((await buy()).status, 'confirmed')
  const paid = await buy({ payment: { method: 'card', token: 'tok_visa' } })
  t.equal(paid.status, 'confirmed', 'a card is charged at the sandbox')
  t.match(first.text(), /migrate: \d+ migrations applied, the schema is up to date/)
  await first.says(/"settled":\{"confirmed":1\}.*"msg":"settled"/)
  t.notMatch(first.text(), /"confirmed":\[/, 'ids are for debug')

  t.match(
    await beside('ops/commands/verify.ts'),
    { code: 0, text: /ok +no queue is blocked[\s\S]*invariants hold, 0 broken/ },
    'it is found',
  )
  t.match(await beside('ops/commands/migrate.ts'), { code: 0, text: /nothing to apply, the schema is up to date/ })
  t.match(await beside('ops/commands/lab.ts', ['inventory']), { code: 0, text: /with lock/ })
  const nowhere = { DATABASE_URL: 'postgres://u:p@127.0.0.1:9/none' }
  t.match(
    await beside('ops/commands/verify.ts', [], nowhere),
    { code: 1, text: /127\.0\.0\.1:9/ },
    'the environment wins',
  )

  t.match(first.text(), /it listens on 127\.0\.0\.1, for this machine alone/)
  const ports = Array.from(first.text().matchAll(/(?:METRICS_PORT=|sandbox:.*127\.0\.0\.1:)(\d+)/g), ([, one]) =>
    Number(one),
  )
  t.equal(ports.length, 3, 'two workers and the payment sandbox')
  for (const one of [port, ...ports]) {
    t.ok(await listens('127.0.0.1', one), `${one} is listened on`)
    // On Linux a server that listens on every address also answers at all of 127.0.0.0/8.
    t.notOk(await listens('127.0.0.2', one), `${one} is on no other address`)
  }

  const orphans = running()
  t.equal(orphans.length, 6, 'Postgres, Redis, the API, two workers and the payment sandbox')

  const another = start(t)
  t.equal(await another.exited, 'code 1', 'one start at a time')
  t.match(another.text(), /already running here \(pid \d+\)/)

  first.child.kill('SIGKILL')
  await first.exited
  t.ok(orphans.every(stillRuns), 'a killed start cannot take its processes along')
  const without = await beside('ops/commands/verify.ts')
  t.match(without, { code: 2, text: /no npm start is running here/ }, 'what it has written down is not believed')

  const second = start(t)
  await second.ready()
  t.notOk(orphans.some(stillRuns), 'so the next one does')
  t.equal(await available(), 8, 'the units that were sold are still sold')
  t.equal((await buy()).status, 'confirmed')
  const processes = running()

  // A terminal's Ctrl-C comes twice if npm is in between.
  second.child.kill('SIGINT')
  second.child.kill('SIGINT')
  t.equal(await second.exited, 'code 0', second.text())
  t.notOk(processes.some(stillRuns), 'nothing is left running')
  t.same(running(), [])
})

t.test('unreadable argument: one line and exit code 2', async (t) => {
  const unknown = start(t, {}, 'wroker=2')
  t.equal(await unknown.exited, 'code 2')
  t.equal(unknown.text(), 'holdfast: cannot read "wroker=2": say NAME=COUNT, where NAME is api or worker or sandbox\n')
})

t.test('SIGTERM to npm alone: everything stops, and npm ends last', async (t) => {
  const npm = launch(t, ['npm', 'start', '--', 'worker=1'])
  await npm.ready()
  const processes = running()
  t.equal(processes.length, 5)
  npm.child.kill('SIGTERM')
  t.same(await once(npm.child, 'exit'), [0, null], npm.text())
  t.notOk(processes.some(stillRuns), 'nothing is left running')
})
