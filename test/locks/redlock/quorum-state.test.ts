/** The state of a lock on a quorum: a holder on one voter of three does not count. */
import t from 'tap'
import { quorumState, revokedHolders } from '../../../src/shared/locks/redlock/quorum-state.ts'

const idOf = (owner: string, ticket: number) => `x 3000 lock:wake:0a1b/1-${ticket}-01234567-89ab ${owner}`
const HELD = idOf('holder', 1_000_000)
const FIRST = idOf('first', 2_000_000)
const SECOND = idOf('second', 3_000_000)

t.test('a holder and a waiter count when a quorum knows them', async (t) => {
  const state = quorumState(
    'a',
    [
      [8, [`${HELD} 8 1000000`, 900], [SECOND, '3000000', FIRST, '2000000']],
      [8, [`${HELD} 8 1001000`, 800], [SECOND, '3000000', FIRST, '2000000']],
      [3, [`${idOf('alone', 5_000_000)} 3 1000000`, 900], []],
    ],
    2,
  )
  t.same(state, {
    resource: 'a',
    fencing_token: 8,
    holders: [{ owner: 'holder', mode: 'exclusive', token: 8, since_ms: 1000, ttl_left_ms: 800 }],
    waiters: [
      { owner: 'first', mode: 'exclusive', since_ms: 2000 },
      { owner: 'second', mode: 'exclusive', since_ms: 3000 },
    ],
  })
})

t.test('a vote is not a lock: its owner waits', async (t) => {
  const voted: [number, (string | number)[], string[]] = [0, [`${FIRST} 0 2000000`, 900], []]
  const { holders, waiters } = quorumState('a', [voted, voted, [0, [], []]], 2)
  t.same([holders, waiters], [[], [{ owner: 'first', mode: 'exclusive', since_ms: 2000 }]])
})

t.test('a forced release names every holder that a voter knew', async (t) => {
  t.match(revokedHolders([[`${HELD} 8 1000000`, 900], [], [`${FIRST} 3 2000000`, 700]]), [
    { owner: 'holder', token: 8 },
    { owner: 'first', token: 3 },
  ])
})
