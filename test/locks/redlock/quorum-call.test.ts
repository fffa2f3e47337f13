/** A round of calls to all voters: for which voters it waits, and how long. */
import t from 'tap'
import { callVoters, stragglerLimit } from '../../../src/shared/locks/redlock/quorum-call.ts'
import type { Voter } from '../../../src/shared/locks/redlock/voter.ts'

const TTL_MS = 3000
const voters = [0, 1, 2].map((n) => ({ n })) as unknown as Voter[]
const indexOf = (voter: Voter) => (voter as unknown as { n: number }).n

t.test('decided: the answers that have come, and the later ones are filled in', async (t) => {
  let answer: (value: string) => void = () => {}
  const last = new Promise<string>((resolve) => {
    answer = resolve
  })
  const call = async (voter: Voter) => (indexOf(voter) === 2 ? last : 'yes')
  const round = await callVoters(voters, call, TTL_MS, (answers) => answers.length >= 2)
  t.same(round.answers, ['yes', 'yes', undefined])
  answer('late')
  await round.all
  t.same(round.answers, ['yes', 'yes', 'late'])
})

t.test('undecided: waits for all; a voter that fails counts for no outcome', async (t) => {
  const pending: number[] = []
  const call = async (voter: Voter) => {
    if (indexOf(voter) === 0) throw new Error('connection reset')
    return 'yes'
  }
  const { answers } = await callVoters(voters, call, TTL_MS, (_answers, left) => {
    pending.push(left)
    return false
  })
  t.same(answers, [undefined, 'yes', 'yes'])
  t.same(pending, [2, 1], 'the last answer needs no decision')
})

t.test('a straggler: left out once a majority has answered, after its share of the TTL', async (t) => {
  const began = performance.now()
  const call = async (voter: Voter) => (indexOf(voter) === 2 ? new Promise<string>(() => {}) : 'yes')
  const { answers } = await callVoters(voters, call, TTL_MS)
  t.same(answers, ['yes', 'yes', undefined])
  t.ok(performance.now() - began >= stragglerLimit(TTL_MS) - 2)
})

t.test('no majority: ends before the time limit of the core, without answers', async (t) => {
  const { answers } = await callVoters(voters, () => new Promise<string>(() => {}), 300)
  t.same(answers, [undefined, undefined, undefined])
})
