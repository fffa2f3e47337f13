/** Buys one unit of product:1 and prints the outcome. */
import { createClient, ProblemError } from 'holdfast/client'

const holdfast = createClient({ url: process.env.HOLDFAST_URL ?? 'http://localhost:3000' })

try {
  // The client sends an Idempotency-Key: a request without an answer is sent again, and the unit is bought once.
  const purchase = await holdfast.post('/api/purchases', {
    body: { customer: 'ada', lines: [{ resource: 'product:1', units: 1 }] },
  })
  const { status, reason, amount } = await holdfast.waitFor(purchase)
  console.log(status === 'confirmed' ? `bought for ${amount}` : `${status}: ${reason}`)
} catch (error) {
  if (!(error instanceof ProblemError)) throw error
  console.log(`refused: ${error.code}`, error.problem.errors ?? error.problem.detail)
}
