/** One try to acquire from a quorum: which votes are granted or given up, and when another try may succeed. */
import t from 'tap'
import type { Attempt } from '../../../src/shared/locks/core/backend.ts'
import { TwoPhaseAcquire, ticketOf } from '../../../src/shared/locks/redlock/two-phase-acquire.ts'
import type { Vote, Voter } from '../../../src/shared/locks/redlock/voter.ts'

const ID = 'x 3000 lock:wake:0a/1-77-01234567-89ab host:1'
const OTHER = 'x 3000 lock:wake:0b/1-66-01234567-89ab host:2'
const ATTEMPT: Attempt = {
  resource: 'a',
  id: ID,
  mode: 'exclusive',
  limit: 0,
  ttl_ms: 3000,
  above: 0,
  slot_ttl_ms: 0,
  ticket: 0,
}
const FIRST_TRY = { handed: [], vote_ms: 1500, first: true, latest: () => true }

const lock: Vote = { kind: 'lock' }
const vote = (min_token: number): Vote => ({ kind: 'vote', min_token, server_us: 0, locked: false })
const heldBy = (id: string): Vote => ({ kind: 'busy', ahead: 0, waiting: 1, free_in_ms: 900, holder: `${id} 5 1` })
const lostData: Vote = { kind: 'not_eligible', left_ms: 1000 }
const uninitialized: Vote = { kind: 'not_eligible', left_ms: -1 }

type Confirmation = Awaited<ReturnType<Voter['confirm']>>

/**
 * Returns voters with these votes, and the requests that each of them got, in order. A voter throws an Error.
 * @param confirmations by round, then by voter; 'confirmed' if absent
 */
function votersOf(votes: (Vote | Error)[], confirmations: Confirmation[][] = []) {
  const asked: string[][] = votes.map(() => [])
  const voters = votes.map((one, i) => ({
    async vote() {
      asked[i]?.push('vote')
      if (one instanceof Error) throw one
      return one
    },
    async confirm(_resource: string, _id: string, token: number) {
      const round = asked[i]?.filter((what) => what.startsWith('confirm')).length ?? 0
      asked[i]?.push(`confirm ${token}`)
      return confirmations[round]?.[i] ?? 'confirmed'
    },
    async stepBack() {
      asked[i]?.push('step back')
    },
    async initialize(at_once: boolean) {
      asked[i]?.push(`initialize ${at_once}`)
    },
  })) as unknown as Voter[]
  return { acquire: new TwoPhaseAcquire(voters, 2), asked }
}

t.test('a quorum confirms at once: granted in one round, with the proposed token', async (t) => {
  const { acquire, asked } = votersOf([lock, lock, heldBy(OTHER)])
  const { answer, retry } = await acquire.tryOnce({ ...ATTEMPT, above: 2 ** 52 }, FIRST_TRY)
  t.match([answer, retry], [{ granted: true, token: 2 ** 52 + 1 }, false])
  t.same(asked, [['vote'], ['vote'], ['vote']])
})

t.test('a quorum votes: all confirm one token, above the lowest that each voter accepts', async (t) => {
  const { acquire, asked } = votersOf([vote(10), vote(30), heldBy(OTHER)], [['confirmed', 'confirmed', 'lost']])
  const { answer } = await acquire.tryOnce(ATTEMPT, FIRST_TRY)
  t.match(answer, { granted: true, token: 30 })
  t.same(
    asked.map((one) => one.at(-1)),
    ['confirm 30', 'confirm 30', 'confirm 30'],
  )
})

t.test('votes that were handed over: confirmed without another vote', async (t) => {
  const { acquire, asked } = votersOf([vote(1), vote(1), vote(1)])
  const { answer } = await acquire.tryOnce(ATTEMPT, { ...FIRST_TRY, handed: [10, 20] })
  t.match([answer, asked[0]], [{ granted: true, token: 20 }, ['confirm 20']])
})

t.test('a fence was raised in the meantime: confirmed once more above it, but not a third time', async (t) => {
  const fences: Confirmation[] = [{ fence: 40 }, { fence: 50 }, { fence: 40 }]
  const raised = votersOf([vote(10), vote(10), vote(10)], [fences])
  const { answer } = await raised.acquire.tryOnce(ATTEMPT, FIRST_TRY)
  t.match([answer, raised.asked[2]], [{ granted: true, token: 51 }, ['vote', 'confirm 10', 'confirm 51']])
  const again = votersOf([vote(10), vote(10), vote(10)], [fences, fences])
  t.match(await again.acquire.tryOnce(ATTEMPT, FIRST_TRY), { answer: { granted: false }, retry: true })
  t.equal(again.asked[2]?.length, 3)
})

t.test('one voter of three confirmed at once: it steps back, and the try is repeated', async (t) => {
  const rivals = [lock, heldBy(OTHER), heldBy('x 3000 lock:wake:0c/1-88-01234567-89ab host:3')]
  const { acquire, asked } = votersOf(rivals)
  const { answer, retry } = await acquire.tryOnce(ATTEMPT, FIRST_TRY)
  t.match([answer, retry], [{ granted: false, holder: 'host:2', ticket: 0 }, true], 'no rival has a quorum')
  t.same(asked, [['vote', 'step back'], ['vote'], ['vote']])
})

t.test('a rival has a quorum: busy, and no other try without a message', async (t) => {
  const { acquire } = votersOf([lock, heldBy(OTHER), heldBy(OTHER)])
  const { answer, retry } = await acquire.tryOnce({ ...ATTEMPT, slot_ttl_ms: 1500 }, FIRST_TRY)
  t.match([answer, retry], [{ granted: false, holder: 'host:2', ticket: 77, free_in_ms: 900 }, false])
})

t.test(
  'no quorum may vote: an error; retried where voters were away, not where they have lost their data',
  async (t) => {
    const lost = await votersOf([vote(1), lostData, lostData]).acquire.tryOnce(ATTEMPT, FIRST_TRY)
    t.match([lost.answer, lost.retry], [{ code: 'no_quorum' }, false])
    const away = [vote(1), new Error('away'), new Error('away')]
    const unreachable = await votersOf(away).acquire.tryOnce(ATTEMPT, FIRST_TRY)
    t.match([unreachable.answer, unreachable.retry], [{ code: 'no_quorum' }, true])
  },
)

t.test('the first vote ever: initialized at once only when all voters are there and none knows', async (t) => {
  const all = votersOf([uninitialized, uninitialized, uninitialized])
  await all.acquire.tryOnce(ATTEMPT, FIRST_TRY)
  t.same(all.asked[0], ['vote', 'initialize true', 'vote', 'initialize true'])
  const one = votersOf([vote(1), heldBy(OTHER), uninitialized])
  await one.acquire.tryOnce(ATTEMPT, FIRST_TRY)
  t.same(one.asked[2], ['vote', 'initialize false'], 'the voter beside it may have voted before')
})

t.test('an abandoned attempt: no confirmation, nothing given up', async (t) => {
  const { acquire, asked } = votersOf([vote(1), vote(1), vote(1)])
  const { answer } = await acquire.tryOnce(ATTEMPT, { ...FIRST_TRY, latest: () => false })
  t.match(answer, { granted: false })
  t.same(asked, [['vote'], ['vote'], ['vote']])
})

t.test('the ticket of an id; 0 for an id without one', async (t) => {
  t.same([ticketOf(ID), ticketOf('x 3000 other')], [77, 0])
})
