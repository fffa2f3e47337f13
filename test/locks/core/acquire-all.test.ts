/** Several leases at once: all or none, in the order of their names. */
import t from 'tap'
import { LockBusyError } from '../../../src/shared/locks/api.ts'
import { acquireAll } from '../../../src/shared/locks/core/acquire-all.ts'
import { Acquisitions } from '../../../src/shared/locks/core/acquisitions.ts'
import type { Attempt, Backend } from '../../../src/shared/locks/core/backend.ts'
import { busy, recordingBackend } from './recording-backend.ts'

const acquisitionsOn = (backend: Backend) => new Acquisitions(backend, { ttl_ms: 3000, instance: 'host:1' })

t.test('one lock at a time: by name, each once, in the stronger of the requested modes', async (t) => {
  const modes: string[] = []
  const attempt = async ({ resource, mode, limit }: Attempt) => {
    modes.push(`${resource} ${mode} ${limit}`)
    return { granted: true, token: modes.length } as const
  }
  const acquisitions = acquisitionsOn(recordingBackend({ attempt }))
  const set = await acquireAll(acquisitions, [
    { resource: 'c', mode: 'permit', limit: 3 },
    { resource: 'b', mode: 'shared' },
    'b',
    { resource: 'c', mode: 'permit', limit: 2 },
    { resource: 'a', mode: 'shared' },
  ])
  t.same(modes, ['a shared 0', 'b exclusive 0', 'c permit 2'])
  t.same([...set.leases.keys()], ['a', 'b', 'c'])
  await set.release()
  t.equal(acquisitions.registry.held.size, 0)
})

t.test('the same resource with a permit and without: refused before any request', async (t) => {
  const backend = recordingBackend()
  const requests = [{ resource: 'a', mode: 'permit', limit: 2 } as const, 'a']
  await t.rejects(acquireAll(acquisitionsOn(backend), requests), RangeError)
  t.same(backend.asked, [])
})

t.test('the last is busy: the earlier ones are released, and the error names the busy one', async (t) => {
  const backend = recordingBackend({
    attempt: async ({ resource }) => (resource === 'c' ? busy() : { granted: true, token: 1 }),
  })
  await t.rejects(acquireAll(acquisitionsOn(backend), ['c', 'b', 'a']), { code: 'lock_busy', resource: 'c' })
  t.same(backend.asked, ['attempt a', 'attempt b', 'attempt c', 'release a', 'release b'])
})

t.test(
  'server that grants a group of resources in one step, second group busy: the first group is released',
  async (t) => {
    const groups: string[][] = []
    const backend = recordingBackend({
      groupResources: (resources) => resources.map((one) => [one]),
      async attemptAll(attempts) {
        groups.push(attempts.map(({ resource }) => resource))
        return groups.length === 2 ? { at: 0, busy: busy() } : { granted: true, tokens: [7] }
      },
    })
    await t.rejects(acquireAll(acquisitionsOn(backend), ['b', 'a']), LockBusyError)
    t.same([groups, backend.asked], [[['a'], ['b']], ['release a']])
  },
)
