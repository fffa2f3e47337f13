/** Tests how the child processes of npm start, tests and benchmarks end. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { startChild, untilReady } from '../../ops/dev/child-process.mjs'
import { ROOT } from '../../ops/dev/install.mjs'
import { anyFreePort, identityOf } from '../../ops/dev/process-registry.mjs'
import { until } from '../support/environment.ts'

const node = (code: string) => [process.execPath, '--input-type=module', '-e', code]

t.test('exception in the process that started a child: ends the child too', async (t) => {
  const module = JSON.stringify(join(ROOT, 'ops/dev/child-process.mjs'))
  const [command = '', ...args] = node(`
    import { startChild } from ${module}
    const child = startChild([process.execPath, '-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' })
    console.log(child.pid)
    throw new Error('on purpose')`)
  const { stdout, status } = spawnSync(command, args, { encoding: 'utf8' })
  const pid = Number(stdout)
  t.equal(status, 1)
  t.ok(pid > 0)
  await until(() => identityOf(pid) === undefined, { what: 'the child to end' })
})

t.test('process that ends before it answers: reported with its exit code and output', async (t) => {
  const child = startChild(node(`console.log('no such database'); process.exit(3)`), {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  child.process.stdout?.on('data', (text) => {
    output += text
  })
  const url = `http://127.0.0.1:${await anyFreePort()}/livez`
  await t.rejects(
    untilReady(child, url, () => output),
    { message: /has ended \(code 3\) before it answered .*no such database/s },
  )
})

t.test('frozen process that ignores SIGTERM: ended by SIGKILL after the deadline', async (t) => {
  const child = startChild(node(`process.on('SIGTERM', () => {}); console.log('up'); setInterval(() => {}, 1000)`), {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  await new Promise((resolve) => child.process.stdout?.once('data', resolve))
  child.kill('SIGSTOP')
  await child.stop('SIGTERM', 200)
  t.equal(await child.exited, 'SIGKILL')
  t.notOk(child.running())
})

t.test('program that does not exist: `exited` resolves with the reason', async (t) => {
  const child = startChild([join(ROOT, 'no-such-program')], { stdio: 'ignore' })
  t.match(await child.exited, /ENOENT/)
  t.equal(child.pid, 0)
  t.notOk(child.running())
})
