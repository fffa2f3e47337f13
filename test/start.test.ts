import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createClient } from 'holdfast/client'
import t from 'tap'
import { ROOT } from '../ops/install.mjs'
import { anyFreePort, identityOf } from '../ops/processes.mjs'
import { until } from './world.ts'

const folder = join(process.env.HOLDFAST_TEST_FOLDER ?? t.testdir({}), 'start')
const port = await anyFreePort()

/** `npm start` less npm, on a folder of its own and with none of this machine's servers. */
function start(t: { teardown(step: () => void): void }, extra: Record<string, string> = {}, ...args: string[]) {
  const { PATH = '', HOME = '' } = process.env
  const env = { PATH, HOME, HOLDFAST_DATA: folder, HOST: '127.0.0.1', PORT: String(port), ...extra }
  const child = spawn(process.execPath, ['ops/start.mjs', ...args], {
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
  t.teardown(() => void child.kill('SIGTERM'))
  const says = (what: RegExp) => until(() => what.exec(text), { timeout_ms: 30_000, what: `${what} in:\n${text}` })
  return { child, exited, says, text: () => text, ready: () => says(/ready: Swagger UI is at (\S+)/) }
}

/** pid + start time of everything that runs for this folder */
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

t.test(
  'from nothing to a confirmed purchase; a start after a kill -9 finds the data and ends the orphans',
  async (t) => {
    const first = start(t, {}, 'worker=2')
    await first.ready()
    t.equal(await available(), 10, 'the samples are loaded')
    t.equal((await buy()).status, 'confirmed')
    const paid = await buy({ payment: { method: 'card', token: 'tok_visa' } })
    t.equal(paid.status, 'confirmed', 'a card is charged at the sandbox')
    const orphans = running()
    t.equal(orphans.length, 6, 'Postgres, Redis, the API, two workers and the payment sandbox')

    const beside = start(t)
    t.equal(await beside.exited, 'code 1', 'one start at a time')
    t.match(beside.text(), /already running here \(pid \d+\)/)

    first.child.kill('SIGKILL')
    await first.exited
    t.ok(orphans.every(stillRuns), 'a killed start cannot take its processes along')

    const second = start(t)
    await second.ready()
    t.notOk(orphans.some(stillRuns), 'so the next one does')
    t.equal(await available(), 8, 'the units that were sold are still sold')
    t.equal((await buy()).status, 'confirmed')
    const processes = running()

    // A terminal's Ctrl-C comes twice when npm is in between.
    second.child.kill('SIGINT')
    second.child.kill('SIGINT')
    t.equal(await second.exited, 'code 0', second.text())
    t.notOk(processes.some(stillRuns), 'nothing is left running')
    t.same(running(), [])
  },
)

t.test('what cannot be done is one line and exit code 1', async (t) => {
  const unknown = start(t, {}, 'wroker=2')
  t.equal(await unknown.exited, 'code 1')
  t.equal(unknown.text(), 'holdfast: cannot read "wroker=2": say NAME=COUNT, where NAME is api or worker or sandbox\n')
})
