/**
 * A process whose Postgres or Redis does not answer logs a warning with the cause, repeats it rarely, and logs when the
 * server answers again.
 */
import t from 'tap'
import { createDependencies, watchDependencies } from '../../src/shared/dependencies.ts'
import { createLog } from '../../src/shared/log.ts'
import { openWorld, type Running, until } from '../support/environment.ts'

interface Line {
  level: number
  msg: string
  dependency?: string
  error?: string
}
const WARN = 40
const linesOf = (text: string): Line[] =>
  text.split('\n').flatMap((line) => (line.startsWith('{') ? (JSON.parse(line) as Line) : []))

t.test('Postgres and Redis not running: the API and a worker each log one warning with the cause', async (t) => {
  const world = await openWorld(t)
  const nowhere = { LOG_LEVEL: 'info', DATABASE_URL: 'postgres://u:secret@127.0.0.1:9/d' }
  const silent = { LOG_LEVEL: 'info', REDIS_URL: 'redis://u:secret@127.0.0.1:9' }
  const told = async (one: Running, dependency: string) => {
    // On a busy machine the running servers may answer late.
    const isLate = ({ error = '' }: Line) => error.startsWith('no response within')
    const warnings = () => linesOf(one.logs()).filter((line) => line.level >= WARN && !isLate(line))
    await until(() => warnings().some((line) => line.dependency === dependency), {
      what: dependency,
      timeout_ms: 30_000,
    })
    // Time for repeated warnings, which would come several times a second.
    const again = await fetch(`${one.url}/readyz`)
    t.equal(again.status, 503)
    await until(async () => (await fetch(`${one.url}/livez`)).ok)
    t.match(warnings(), [{ dependency, error: /ECONNREFUSED 127.0.0.1:9/ }], one.logs())
    t.equal(warnings().length, 1, one.logs())
    t.match(await again.json(), { checks: { [dependency]: { status: 'down', detail: /ECONNREFUSED/ } } })
    t.notMatch(one.logs(), /secret|taking purchases|settling lines/)
  }
  await Promise.all([
    world.startApi(nowhere).then((one) => told(one, 'postgres')),
    world.startWorker(nowhere).then((one) => told(one, 'postgres')),
    world.startApi(silent).then((one) => told(one, 'redis')),
    world.startWorker(silent).then((one) => told(one, 'redis')),
  ])
})

t.test('dependency that stays away or hangs: the warning is repeated rarely, and its return is logged', async (t) => {
  let text = ''
  const to = {
    write(line: string) {
      text += line
    },
  }
  const log = createLog('info', 'test', { to })
  let asked = 0
  let answer: () => Promise<unknown> = () => Promise.resolve()
  const question = () => {
    asked++
    return answer()
  }
  const watch = watchDependencies(
    { dependencies: createDependencies({ postgres: question }), log },
    { watch_ms: 20, repeat_ms: 1_000 },
  )
  t.teardown(() => watch.close())
  const said = () => linesOf(text).map(({ level, msg, error }) => ({ level, msg, error }))
  await until(() => asked > 3)
  t.same(said(), [], 'a dependency that answers is not logged')

  const refused = { level: WARN, msg: 'postgres does not answer', error: 'connect ECONNREFUSED ::1:5432' }
  // Node's error for a name with several addresses, whose message is empty.
  answer = () => Promise.reject(new AggregateError([new Error('connect ECONNREFUSED ::1:5432')]))
  await until(() => said().length > 0)
  const since = asked
  t.same(said(), [refused])
  await until(() => said().length === 2, { what: 'it to be said again' })
  t.ok(asked - since > 10, `rarely: after ${asked - since} more looks`)
  t.same(said()[1], refused)

  answer = () => Promise.resolve()
  await until(() => said().length === 3)
  t.match(said()[2], { level: 30, msg: 'postgres answers again' })

  answer = () => new Promise(() => {})
  await until(() => said().length === 4, { what: 'a hanging one to be said' })
  t.match(said()[3], { level: WARN, error: 'no response within 1000 ms' })
  const hanging = asked
  await until(() => said().length === 5, { what: 'it to be said again' })
  t.equal(asked, hanging, 'what is not answered is not asked again')
})
