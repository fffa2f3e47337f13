/** Remote leases: the handle alone is enough to renew and to release, and no other text is accepted as a handle. */
import t from 'tap'
import { Acquisitions } from '../../../src/shared/locks/core/acquisitions.ts'
import type { Backend } from '../../../src/shared/locks/core/backend.ts'
import { createRemoteLeases, handleOf } from '../../../src/shared/locks/core/lease-handle.ts'
import { recordingBackend } from './recording-backend.ts'

function remoteOn(backend: Backend, lost: string[] = []) {
  const events = {
    lost: (resource: string, why: string, { owner }: { owner: string }) =>
      void lost.push(`${resource} ${why} ${owner}`),
  }
  return createRemoteLeases(new Acquisitions(backend, { ttl_ms: 6000, instance: 'host:1', events }))
}

t.test('acquired by one process, renewed and released by another', async (t) => {
  const asked: string[] = []
  const recording = recordingBackend({
    async extend(resource, id, ttl_ms) {
      asked.push(`extend ${resource} ${id} ${ttl_ms}`)
      return 0
    },
    async release(resource, id) {
      asked.push(`release ${resource} ${id}`)
      return 'released'
    },
  })
  const lease = await remoteOn(recording).acquire('a', { ttl_ms: 60_000 })
  const renewed = await remoteOn(recording).extend(lease.handle)
  t.match(renewed, { handle: lease.handle, token: lease.token, ttl_ms: 60_000 })
  t.same(await remoteOn(recording).release(lease.handle), { released: true })
  t.same(asked, ['extend a id-1 60000', 'extend a id-1 60000', 'release a id-1'], 'renewed to a whole TTL at first')
})

t.test('the renewal of a new lease finds the lock taken: cancelled, and no lease', async (t) => {
  const backend = recordingBackend({ extend: async () => 'taken' })
  await t.rejects(remoteOn(backend).acquire('a'), { code: 'lease_lost', why: 'taken' })
  t.same(backend.asked, ['attempt a', 'extend a', 'cancel a'])
})

t.test('a lost lease: reported with the owner that its id names', async (t) => {
  const lost: string[] = []
  const handle = handleOf({
    resource: 'a',
    mode: 'exclusive',
    id: 'x 6000 lock:wake:0a/1-01234567-89ab host:1 job 7',
    token: 5,
    ttl_ms: 6000,
    since_ms: Date.now(),
  })
  const backend = recordingBackend({ extend: async () => 'expired', release: async () => 'expired' })
  await t.rejects(remoteOn(backend, lost).extend(handle), { code: 'lease_lost', why: 'expired', token: 5 })
  t.same(lost, ['a expired host:1 job 7'])
  t.same(await remoteOn(backend).release(handle), { released: false, reason: 'expired' })
})

t.test('invalid handle: refused before any request', async (t) => {
  const backend = recordingBackend()
  const parts = ['a', 'exclusive', 'id-1', 5, 6000, 1]
  const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const wrong = [
    ['mode', parts.with(1, 'other')],
    ['empty resource', parts.with(0, '')],
    ['token', parts.with(3, 0)],
    ['ttl_ms', parts.with(4, 86_400_001)],
    ['one part too few', parts.slice(0, 5)],
    ['an object', {}],
  ] as const
  for (const [what, value] of wrong) await t.rejects(remoteOn(backend).extend(encoded(value)), RangeError, what)
  await t.rejects(remoteOn(backend).release('~'), RangeError)
  t.same(backend.asked, [])
  await remoteOn(backend).extend(encoded(parts))
  t.same(backend.asked, ['extend a'])
})
