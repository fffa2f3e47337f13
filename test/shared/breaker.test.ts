/** A breaker that gives up a call cancels it, and passes a late result to the callback that releases it. */
import t from 'tap'
import { createBreaker, UnavailableError } from '../../src/shared/breaker.ts'
import { createMetrics } from '../../src/shared/metrics.ts'

const breaker = createBreaker({ name: 'test', timeout_ms: 100, isAnswer: () => false, metrics: createMetrics() })
t.teardown(() => breaker.close())

t.test('call beyond its time limit: its signal aborts, and its late result is released once', async (t) => {
  let yields: (value: string) => void = () => {}
  let signal: AbortSignal | undefined
  const given: string[] = []
  const call = breaker.run(
    (given_up) => {
      signal = given_up
      return new Promise<string>((resolve) => {
        yields = resolve
      })
    },
    (late) => given.push(late),
  )
  await t.rejects(call, { code: 'unavailable', attempted: true })
  t.ok(signal?.aborted, 'the body is told')
  t.type(signal?.reason, UnavailableError)
  yields('a lease')
  await new Promise(setImmediate)
  t.same(given, ['a lease'])
})

t.test('result in the same turn as the time limit: returned or released, not both', async (t) => {
  const given: string[] = []
  const late = (value: string) => given.push(value)
  const calls = Array.from({ length: 20 }, (_, n) =>
    breaker
      .run(
        (signal) =>
          new Promise<string>((resolve) => {
            // Delays around the limit: some end before it, some after it, some in the same turn.
            setTimeout(() => resolve(`${n}`), 90 + n)
            signal.addEventListener('abort', () => resolve(`${n}`))
          }),
        late,
      )
      .catch(() => undefined),
  )
  const kept = (await Promise.all(calls)).filter((one) => one !== undefined)
  await new Promise((resolve) => setTimeout(resolve, 150))
  const all = [...kept, ...given].map(Number).sort((a, b) => a - b)
  t.same(
    all,
    Array.from({ length: 20 }, (_, n) => n),
    'each result is kept or given back, none is both, none is lost',
  )
})

t.test('result in time: returned, and the signal does not abort', async (t) => {
  let signal: AbortSignal | undefined
  const other = createBreaker({ name: 'other', timeout_ms: 5_000, isAnswer: () => false, metrics: createMetrics() })
  t.teardown(() => other.close())
  const result = await other.run(
    async (given_up) => {
      signal = given_up
      return 'kept'
    },
    () => t.fail('nothing is given back'),
  )
  t.equal(result, 'kept')
  t.notOk(signal?.aborted)
})
