/** The wait queue in etcd: the order of turns, and the parts of ids and keys. */
import t from 'tap'
import {
  entryOf,
  idOf,
  leaseOf,
  type OwnerId,
  readEntry,
  readId,
  turns,
} from '../../../src/shared/locks/etcd/wait-queue.ts'

const OWNER: OwnerId = {
  mode: 'exclusive',
  limit: 0,
  ttl_ms: 6000,
  channel: '0a1b',
  waiter_id: 12,
  uuid: '01234567-89ab-4cde-8f01-23456789abcd',
  owner: 'host:1 job 7\nof two lines',
}
const exclusive = { mode: 'exclusive', limit: 0 } as const
const shared = { mode: 'shared', limit: 0 } as const
const permit = (limit: number) => ({ mode: 'permit', limit }) as const

t.test('turns: one writer, readers in a row, permits up to the lowest limit; none overtakes another', async (t) => {
  t.equal(turns([]), 0)
  t.equal(turns([exclusive, exclusive]), 1)
  t.equal(turns([exclusive, shared]), 1)
  t.equal(turns([shared, shared, exclusive, shared]), 2)
  t.equal(turns([permit(3), permit(3), permit(3), permit(3)]), 3)
  t.equal(turns([permit(3), permit(2), permit(3)]), 2)
  t.equal(turns([permit(3), permit(3), permit(1)]), 2, 'a lower limit behind does not take a turn back')
  t.equal(turns([permit(2), shared]), 1)
})

t.test('an id is read as it was made, in each mode', async (t) => {
  for (const one of [exclusive, shared, permit(5)]) {
    const owner = { ...OWNER, ...one }
    t.same(readId(idOf(owner)), owner)
  }
  t.throws(() => readId('x 6000 other'), RangeError)
})

t.test('etcd leases of an id: one for slot and lock up to 6 s, then two, never 0 and never negative', async (t) => {
  t.equal(leaseOf(OWNER, 'slot'), leaseOf(OWNER, 'lock'))
  t.not(leaseOf({ ...OWNER, ttl_ms: 6001 }, 'slot'), leaseOf({ ...OWNER, ttl_ms: 6001 }, 'lock'))
  t.equal(leaseOf({ ...OWNER, uuid: '80000000-0000-0000-0000-000000000000' }, 'lock'), '1')
  t.ok(BigInt(leaseOf({ ...OWNER, uuid: 'ffffffff-ffff-ffff-ffff-ffffffffffff' }, 'lock')) < 2n ** 63n)
})

t.test('a key: a waiter has no token, a holder has the base plus the revision that granted it', async (t) => {
  const kv = {
    key: Buffer.from('lock/a/u'),
    value: entryOf(idOf(OWNER)),
    create_revision: '4',
    mod_revision: '4',
    version: '1',
    lease: '9',
  }
  t.match(readEntry(kv), { key: 'lock/a/u', create_revision: 4, owner: OWNER.owner, token: undefined })
  t.match(readEntry({ ...kv, value: entryOf(idOf(OWNER), 1000), mod_revision: '6' }), {
    create_revision: 4,
    token: 1006,
  })
  t.equal(readEntry({ ...kv, key: Buffer.from('lock/a/foreign'), value: Buffer.from('7') }), undefined)
})
