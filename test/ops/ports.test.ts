/** Test files start servers at the same time, each on a port that anyFreePort draws. */
import t from 'tap'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'

t.test('port drawn twice before a server listens on it: the second draw gives another one', async (t) => {
  const { random } = Math
  t.teardown(() => {
    Math.random = random
  })
  const drawn = Array.from({ length: 5 }, random)
  for (const one of drawn) {
    const draws = [one, one]
    Math.random = () => draws.pop() ?? random()
    const [first, second] = [await anyFreePort(), await anyFreePort()]
    t.not(first, second)
  }
})
