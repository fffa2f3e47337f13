/** Time limits, loops and wake-ups: none of them runs twice at once, and none leaves a timer behind. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createSignal, every, type Interruptible, withTimeout } from '../../src/shared/timeout.ts'
import { blockEventLoop } from '../support/block.ts'
import { until } from '../support/environment.ts'

const never = () => new Promise<never>(() => {})
/** Fails the test if a wait does not end within a time longer than any limit here, even on a busy machine. */
const soon = <T>(work: Promise<T>) => withTimeout(work, 10_000, 'not ended')

t.test('withTimeout', async (t) => {
  t.test('work that ends in time: its value, or its error', async (t) => {
    t.equal(await withTimeout(Promise.resolve(7), 10_000), 7)
    await t.rejects(withTimeout(Promise.reject(new Error('refused')), 10_000), { message: 'refused' })
  })

  t.test('work that takes too long: an error that names what did not come, and the limit', async (t) => {
    await t.rejects(withTimeout(never(), 50), { message: 'no response within 50 ms', code: 'ETIMEDOUT' })
    await t.rejects(withTimeout(never(), 50, 'the clock did not strike'), {
      message: 'the clock did not strike within 50 ms',
    })
  })

  t.test('each limit is its own: a later, shorter one ends first', async (t) => {
    const long = withTimeout(never(), 300)
    const ended: string[] = []
    await Promise.all([long.catch(() => ended.push('long')), withTimeout(never(), 60).catch(() => ended.push('short'))])
    t.same(ended, ['short', 'long'])
  })

  t.test('an answer that arrived while the event loop was blocked counts, although its limit has passed', async (t) => {
    let answer = () => {}
    const work = new Promise<string>((resolve) => {
      answer = () => resolve('answered')
    })
    const limited = withTimeout(work, 50)
    // Runs after the timers of this turn and before the setImmediate in which late requests are rejected.
    setImmediate(() => {
      blockEventLoop(100)
      setImmediate(answer)
    })
    t.equal(await limited, 'answered')
  })

  t.test('a waiter that is aborted, before or during the wait: rejected with its reason', async (t) => {
    const waiter: Interruptible = {}
    const waiting = withTimeout(never(), 10_000, 'nothing', waiter)
    waiter.abort?.(new Error('left'))
    await t.rejects(soon(waiting), { message: 'left' })
    const left: Interruptible = { aborted: { reason: new Error('had left') } }
    await t.rejects(soon(withTimeout(never(), 10_000, 'nothing', left)), { message: 'had left' })
  })
})

t.test('every', async (t) => {
  t.test('a run that takes several turns: the turns are skipped, and runs never overlap', async (t) => {
    let [runs, running, most] = [0, 0, 0]
    const run = async () => {
      runs++
      most = Math.max(most, ++running)
      await sleep(35)
      running--
    }
    const stop = every(10, run, (error) => t.error(error))
    await until(() => runs >= 4)
    await stop()
    t.equal(most, 1)
  })

  t.test('a run that fails, at once or later: its error is reported, and the next turn comes', async (t) => {
    const errors: unknown[] = []
    let runs = 0
    const run = () => {
      runs++
      if (runs === 1) throw new Error('at once')
      if (runs === 2) return Promise.reject(new Error('later'))
      return undefined
    }
    const stop = every(5, run, (error) => errors.push(error))
    await until(() => runs >= 4)
    await stop()
    t.match(errors, [{ message: 'at once' }, { message: 'later' }])
    t.equal(errors.length, 2)
  })

  t.test('stop waits for the run under way, and no other begins', async (t) => {
    let [began, ended] = [0, 0]
    const goOn = createSignal()
    const run = async () => {
      began++
      await goOn.wait()
      ended++
    }
    const stop = every(5, run, (error) => t.error(error))
    await until(() => began === 1)
    const stopped = stop()
    goOn.fire()
    await stopped
    t.equal(ended, 1)
    await sleep(30)
    t.equal(began, 1)
    await soon(stop())
  })
})

t.test('createSignal', async (t) => {
  t.test('fire ends all waits, and those that begin later', async () => {
    const signal = createSignal()
    const waits = Promise.all([signal.wait(), signal.wait({ within_ms: 60_000 })])
    signal.fire()
    await soon(waits)
    await soon(signal.wait())
  })

  t.test('a wait ends after its time, and the others go on', async (t) => {
    const signal = createSignal()
    let ended = false
    const other = signal.wait().then(() => {
      ended = true
    })
    await soon(signal.wait({ within_ms: 10 }))
    t.notOk(ended)
    signal.fire()
    await soon(other)
  })

  t.test('a wait ends when its AbortSignal aborts, or has aborted', async () => {
    const signal = createSignal()
    const control = new AbortController()
    const waiting = signal.wait({ signal: control.signal })
    control.abort()
    await soon(waiting)
    await soon(signal.wait({ within_ms: 60_000, signal: control.signal }))
  })
})
