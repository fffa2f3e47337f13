/** Buys one of product:1, and says what came of it. */
import { createClient, ProblemError } from 'holdfast/client'

const holdfast = createClient({ url: process.env.HOLDFAST_URL ?? 'http://localhost:3000' })

try {
  // Sent with an Idempotency-Key: when it is not answered it is sent again, and bought once.
  const taken = await holdfast.post('/api/purchases', {
    body: { customer: 'ada', lines: [{ resource: 'product:1', units: 1 }] },
  })
  const { status, reason, amount } = await holdfast.waitFor(taken)
  console.log(status === 'confirmed' ? `bought for ${amount}` : `${status}: ${reason}`)
} catch (error) {
  if (!(error instanceof ProblemError)) throw error
  console.log(`refused: ${error.code}`, error.problem.errors ?? error.problem.detail)
}
