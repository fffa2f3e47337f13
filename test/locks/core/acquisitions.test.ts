/** Requests to the lock server that end without a lease are cleaned up, after their last answer and not before. */
import t from 'tap'
import { Acquisitions } from '../../../src/shared/locks/core/acquisitions.ts'
import type { Answer, Backend } from '../../../src/shared/locks/core/backend.ts'
import { type GrantedLock, holdLease } from '../../../src/shared/locks/core/held-lease.ts'
import { queued, type RecordingBackend, recordingBackend } from './recording-backend.ts'

/** TTL of the locks. An answer may take a third of it, for which the tests never wait. */
const TTL_MS = 6000

function acquisitionsOn(backend: Backend, failed: string[] = []): Acquisitions {
  const events = { failed: (resource: string, why: string) => void failed.push(`${resource} ${why}`) }
  return new Acquisitions(backend, { ttl_ms: TTL_MS, instance: 'host:1', events })
}

/** Resolves when the server has received this request. */
async function wasAsked({ asked }: RecordingBackend, what: string): Promise<void> {
  while (!asked.includes(what)) await new Promise((resolve) => setImmediate(resolve))
}

t.test('a wait that is aborted: the cancel is sent after the attempt has been answered', async (t) => {
  let answer: (answer: Answer) => void = () => {}
  const backend = recordingBackend({ attempt: () => new Promise((resolve) => (answer = resolve)) })
  const failed: string[] = []
  const acquisitions = acquisitionsOn(backend, failed)
  const stop = new AbortController()
  const holdGrant = (grant: GrantedLock) => holdLease(acquisitions.registry, grant)
  const acquired = acquisitions.acquireGrant('a', { signal: stop.signal }, 10_000, holdGrant)
  stop.abort(new Error('stopped'))
  await t.rejects(acquired, { message: 'stopped' })
  t.same(failed, ['a aborted'])
  t.same(backend.asked, ['attempt a'], 'a cancel that overtook the attempt would leave the lock behind')
  answer({ granted: true, token: 1 })
  await wasAsked(backend, 'cancel a')
  t.equal(acquisitions.registry.held.size, 0)
})

t.test('makeLease rejects: the granted lock is cancelled', async (t) => {
  const backend = recordingBackend()
  const failed: string[] = []
  const acquisitions = acquisitionsOn(backend, failed)
  const refuse = async (): Promise<object> => {
    throw new Error('not renewed')
  }
  await t.rejects(acquisitions.acquireGrant('a', {}, 0, refuse), { message: 'not renewed' })
  t.same([backend.asked, failed], [['attempt a', 'cancel a'], ['a unreachable']])
})

t.test('the cancel fails, too: it is sent again until it succeeds', async (t) => {
  let failures = 0
  const cancel = async () => {
    if (++failures <= 2) throw new Error('connection reset')
  }
  const backend = recordingBackend({ attempt: async () => Promise.reject(new Error('connection reset')), cancel })
  const acquisitions = acquisitionsOn(backend)
  await t.rejects(
    acquisitions.acquireGrant('a', {}, 0, (grant) => grant),
    { message: 'connection reset' },
  )
  while (backend.asked.length < 4) await new Promise((resolve) => setTimeout(resolve, 5))
  t.same(backend.asked, ['attempt a', 'cancel a', 'cancel a', 'cancel a'])
})

t.test('expected_hold_ms throws: nothing was sent', async (t) => {
  const backend = recordingBackend()
  const expected_hold_ms = () => Number.NaN
  const acquisitions = new Acquisitions(backend, { ttl_ms: TTL_MS, instance: 'host:1', expected_hold_ms })
  t.throws(() => acquisitions.newRequest('a', {}), RangeError)
  t.same(backend.asked, [])
})

t.test('close: ends the waits with its reason, releases what is held, and only then closes the backend', async (t) => {
  const closed: string[] = []
  const backend: RecordingBackend = recordingBackend({
    attempt: async ({ resource }) => (resource === 'free' ? { granted: true, token: 1 } : queued()),
    close: async () => void closed.push(...backend.asked),
  })
  const failed: string[] = []
  const acquisitions = acquisitionsOn(backend, failed)
  const holdGrant = (grant: GrantedLock) => holdLease(acquisitions.registry, grant)
  await acquisitions.acquireGrant('free', {}, 0, holdGrant)
  const waiting = acquisitions.acquireGrant('held', {}, 10_000, holdGrant)
  await wasAsked(backend, 'attempt held')
  const [waited] = await Promise.allSettled([waiting, acquisitions.close(), acquisitions.close()])
  t.match(waited, { status: 'rejected', reason: { code: 'closed' } })
  t.same(failed, ['held closed'])
  t.same(closed.sort(), ['attempt free', 'attempt held', 'cancel held', 'release free'], 'closed once')
  t.throws(() => acquisitions.newRequest('a', {}), { code: 'closed' })
})

t.test('a message of the server: wakes its waiter alone, or ends its lease alone', async (t) => {
  const backend = recordingBackend({ attempt: async () => queued() })
  const acquisitions = acquisitionsOn(backend)
  const [first, second] = ['a', 'b'].map((resource) => acquisitions.newRequest(resource, {}))
  const waits = [first, second].map((one) => acquisitions.startWait(one?.waiter_id ?? 0, undefined))
  const grant = acquisitions.newRequest('c', {})
  const lease = holdLease(acquisitions.registry, { ...grant, token: 1, sent_at: performance.now(), valid_ms: TTL_MS })
  backend.deliver(second?.waiter_id ?? 0)
  t.same(
    waits.map(({ waiter }) => waiter.woken),
    [false, true],
  )
  t.ok(lease.remaining_ms > 0)
  backend.deliver(grant.waiter_id, 'taken')
  t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'taken' })
  for (const { endWait } of waits) endWait()
  backend.deliver(second?.waiter_id ?? 0)
  await lease.release()
  await acquisitions.close()
})
