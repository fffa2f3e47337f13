/** Runs the examples of docs/locks.md. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)

function run(command: string, args: string[], env: Record<string, string>) {
  const child = spawn(command, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    out += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    err += chunk
  })
  t.teardown(() => void child.kill('SIGKILL'))
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `code ${code}`))
  })
  const closed = new Promise((resolve) => child.once('close', resolve))
  return { child, exited, closed, out: () => out, err: () => err }
}

t.test('examples in the guide: equal to the files that run here', async (t) => {
  const text = (name: string) => readFileSync(join(ROOT, 'docs', name), 'utf8')
  const guide = text('locks.md')
  for (const [name, language] of [
    ['examples/lease.ts', 'ts'],
    ['examples/lease.sh', 'sh'],
  ] as const) {
    t.ok(guide.includes(`\`\`\`${language}\n${text(name)}\`\`\``), name)
  }
})

t.test("holdfast/locks in another program: that program's own SQL refuses the late writer", async (t) => {
  const example = run(process.execPath, ['--import=tsx', 'docs/examples/lease.ts'], world.env)
  await example.closed
  t.equal(await example.exited, 'code 0', example.err())
  t.equal(example.out(), 'busy: slow has it\nsuperseded: nothing is written\n3 of 5 seats are left\n')
})

t.test('shell script that holds, renews and loses a lock: its command ends with the lock', async (t) => {
  const { url } = await world.startApi({ API_KEYS: 'of-a-service', ADMIN_KEYS: 'of-an-admin' })
  const call = contract(url)
  const as = (key: string) => ({ headers: { 'x-api-key': key } })
  const look = async () => (await call('GET', '/api/locks/report:shell', as('of-a-service'))).body
  const script = (body: string) =>
    run('sh', ['docs/examples/lease.sh', 'report:shell', 'sh', '-c', body], {
      ...world.env,
      HOLDFAST_URL: url,
      API_KEY: 'of-a-service',
      BEAT_S: '1',
    })

  const since = performance.now()
  const first = script('echo "$$ writes with $FENCING_TOKEN"; exec sleep 60')
  await until(() => /writes with/.test(first.out()))
  const [, pid, token] = /^(\d+) writes with (\d+)$/m.exec(first.out()) ?? []
  const { holders } = await look()
  t.match(holders, [{ mode: 'exclusive', owner: /:\d+$/, fencing_token: Number(token) }], 'it holds')
  const [{ owner }] = holders

  const second = script('echo "next with $FENCING_TOKEN"; exit 7')
  await until(async () => (await look()).waiters.length === 1)
  await until(() => performance.now() - since > 4_500)
  t.match((await look()).holders, [{ owner, fencing_token: Number(token) }], 'it renews: its TTL is 4 s')

  const taken = await call('DELETE', '/api/locks/report:shell', as('of-an-admin'))
  t.match(taken, { status: 200, body: { revoked_holders: [{ owner }] } })
  const robbed = performance.now()
  t.not(await first.exited, 'code 0', 'it loses')
  const ended_ms = performance.now() - robbed
  t.ok(ended_ms < 4_000, `and says so after ${Math.round(ended_ms)} ms, within a TTL`)
  t.match(first.err(), /lost: report:shell/)
  t.throws(() => process.kill(Number(pid), 0), { code: 'ESRCH' }, 'its command has ended')

  t.equal(await second.exited, 'code 7', "the command's own exit code")
  const [, next] = /^next with (\d+)$/m.exec(second.out()) ?? []
  t.ok(Number(next) > taken.body.fencing_token, 'a later token')
  await until(async () => (await look()).holders.length === 0, { timeout_ms: 1_000, what: 'it to be let go' })

  const third = script('echo "$$"; exec sleep 60')
  await until(() => third.out())
  third.child.kill('SIGTERM')
  await third.exited
  t.throws(() => process.kill(Number(third.out()), 0), { code: 'ESRCH' }, 'it is told to stop: so is its command')
  t.equal((await look()).holders.length, 0, 'and the lock is let go')
})
