/** src/api/queue/resource-kinds.ts: each resource is read once, and an error names the field that is wrong. */
import t from 'tap'
import type { Database } from '../../../src/api/database.ts'
import { createResourceKinds, type RequestedResource } from '../../../src/api/queue/resource-kinds.ts'

/** The kinds of these resources, and the lists that were read. */
function openKinds(stored: Record<string, 'units' | 'calendar'>) {
  const lists: unknown[] = []
  const query = async (_statement: unknown, values?: { ids?: unknown }) => {
    lists.push(values?.ids)
    return Object.entries(stored).map(([id, kind]) => ({ id, kind }))
  }
  return { lists, kinds: createResourceKinds({ query } as unknown as Database) }
}

t.test('a resource is read once, several at once', async (t) => {
  const { kinds, lists } = openKinds({ 'product:1': 'units', 'property:1': 'calendar', 'account:1': 'units' })
  const requested: RequestedResource[] = [
    { ref: 'product:1', field: 'lines[0].resource', kind: 'units' },
    { ref: 'account:1', field: 'payment.account', kind: 'account' },
  ]
  await kinds.assertKinds(requested)
  await kinds.assertKinds(requested)
  t.same(lists, ['{"product:1","account:1"}'])
})

const WRONG: [ref: string, kind: RequestedResource['kind'], code: string][] = [
  ['product:9', 'units', 'unknown_resource'],
  ['property:1', 'units', 'wrong_kind'],
  ['product:1', 'calendar', 'wrong_kind'],
  ['product:1', 'account', 'wrong_kind'],
  // Its units are money.
  ['account:1', 'units', 'wrong_kind'],
]
for (const [ref, kind, code] of WRONG) {
  t.test(`${ref} as ${kind}: 422 ${code}`, async (t) => {
    const { kinds } = openKinds({ 'product:1': 'units', 'property:1': 'calendar', 'account:1': 'units' })
    const wrong = { status: 422, code, extras: { errors: [{ field: 'lines[1].resource' }] } }
    await t.rejects(kinds.assertKinds([{ ref, field: 'lines[1].resource', kind }]), wrong)
  })
}

t.test('a resource that did not exist is read again', async (t) => {
  const stored: Record<string, 'units'> = {}
  const { kinds } = openKinds(stored)
  const requested: RequestedResource[] = [{ ref: 'product:1', field: 'resource', kind: 'units' }]
  await t.rejects(kinds.assertKinds(requested), { code: 'unknown_resource' })
  stored['product:1'] = 'units'
  await t.resolves(kinds.assertKinds(requested))
})
