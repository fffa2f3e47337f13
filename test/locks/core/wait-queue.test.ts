/** A wait for one lock: the answers and messages that end it, and its behaviour while the server is away. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Answer, Attempt } from '../../../src/shared/locks/core/backend.ts'
import { abort, abortOnSignal, type Waiter, waitForLock, wake } from '../../../src/shared/locks/core/wait-queue.ts'
import { queued, recordingBackend } from './recording-backend.ts'

const TTL_MS = 60_000
/** Life of a slot. A waiter rechecks after a third of it, which is longer than any test here takes. */
const SLOT_MS = 30_000
const request = (slot_ttl_ms = SLOT_MS): Attempt => ({
  resource: 'a',
  id: 'id-1',
  mode: 'exclusive',
  limit: 0,
  ttl_ms: TTL_MS,
  above: 0,
  slot_ttl_ms,
  ticket: 0,
})
const inMs = (ms: number) => performance.now() + ms

/** Returns a server that gives these answers in order and then repeats the last one. It throws an Error. */
function answering(...answers: (Answer | Error)[]) {
  const tickets: number[] = []
  const backend = recordingBackend({
    async attempt({ ticket }) {
      const answer = answers[Math.min(tickets.length, answers.length - 1)]
      tickets.push(ticket)
      if (answer instanceof Error) throw answer
      return answer as Answer
    },
  })
  return { backend, tickets }
}

/** Resolves when the waiter sleeps after its attempt. */
async function asleep(waiter: Waiter): Promise<void> {
  while (!waiter.wake) await sleep(1)
}

t.test('the turn is handed over: granted without another request, for the rest of the life of the slot', async (t) => {
  const { backend, tickets } = answering({ ...queued(), slot: 5 })
  const waiter: Waiter = { woken: false }
  const began = performance.now()
  const granted = waitForLock(backend, request(), waiter, inMs(10_000))
  await asleep(waiter)
  wake(waiter, { slot: 5, token: 9 })
  const outcome = await granted
  t.match(outcome, { granted: true, token: 9, valid_ms: SLOT_MS })
  t.ok(outcome.granted && outcome.sent_at >= began && outcome.sent_at < performance.now())
  t.same(tickets, [0])
})

t.test('a hand-over to an earlier slot: is no grant, and the waiter attempts again with its ticket', async (t) => {
  const { backend, tickets } = answering({ ...queued(), ticket: 3, slot: 5 }, { granted: true, token: 10 })
  const waiter: Waiter = { woken: false }
  const granted = waitForLock(backend, request(), waiter, inMs(10_000))
  await asleep(waiter)
  wake(waiter, { slot: 4, token: 9 })
  t.match(await granted, { granted: true, token: 10, valid_ms: TTL_MS })
  t.same(tickets, [0, 3])
})

t.test('a message during the attempt: its answer may be older, so the waiter attempts again at once', async (t) => {
  const waiter: Waiter = { woken: false }
  let attempts = 0
  const backend = recordingBackend({
    async attempt() {
      attempts += 1
      if (attempts > 1) return { granted: true, token: 1 }
      wake(waiter)
      return queued()
    },
  })
  const began = performance.now()
  t.match(await waitForLock(backend, request(), waiter, inMs(10_000)), { granted: true })
  t.ok(performance.now() - began < 5000, 'before the recheck was due')
})

t.test('the time is up: the last busy answer', async (t) => {
  const { backend } = answering({ ...queued(), ticket: 3 })
  const contended: string[] = []
  const wait = waitForLock(backend, request(), { woken: false }, inMs(20), (resource) => contended.push(resource))
  t.match(await wait, { granted: false, ticket: 3 })
  t.same(contended, ['a'])
})

t.test('the first attempt fails: so does the wait; in the queue a lost answer is no reason to leave', async (t) => {
  const reset = new Error('connection reset')
  await t.rejects(waitForLock(answering(reset).backend, request(), { woken: false }, inMs(10_000)), reset)
  const { backend, tickets } = answering({ ...queued(), ticket: 3 }, reset, { granted: true, token: 1 })
  const waiter: Waiter = { woken: false }
  const granted = waitForLock(backend, request(150), waiter, inMs(10_000))
  t.match(await granted, { granted: true })
  t.same(tickets, [0, 3, 3])
})

t.test('the server is away when the time is up: its error, once the slot must have expired', async (t) => {
  const away = new Error('away')
  const wait = waitForLock(answering(queued(), away).backend, request(30), { woken: false }, inMs(1000))
  await t.rejects(wait, away)
})

t.test('an aborted signal ends every wait under it, and no other', async (t) => {
  const stop = new AbortController()
  const { backend } = answering(queued())
  const waiters: Waiter[] = [1, 2, 3].map(() => ({ woken: false }))
  const [first, second, other] = waiters as [Waiter, Waiter, Waiter]
  const under = [first, second].map((waiter) => abortOnSignal(stop.signal, waiter))
  t.equal(under[0], under[1], 'one listener for both')
  const waits = waiters.map((waiter) => waitForLock(backend, request(), waiter, inMs(10_000)))
  await Promise.all(waiters.map(asleep))
  stop.abort(new Error('stopped'))
  await t.rejects(waits[0] as Promise<unknown>, { message: 'stopped' })
  await t.rejects(waits[1] as Promise<unknown>, { message: 'stopped' })
  t.notOk(other.aborted)
  abort(other, new Error('closed'))
  abort(other, new Error('twice'))
  await t.rejects(waits[2] as Promise<unknown>, { message: 'closed' })
})
