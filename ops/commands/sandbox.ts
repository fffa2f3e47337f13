/**
 * `npm run sandbox`: the payment sandbox on SANDBOX_URL's port (12111). Its events go to SANDBOX_WEBHOOK_URL, if set,
 * signed with STRIPE_WEBHOOK_SECRET; the token `slow` takes SANDBOX_SLOW_MS (1500).
 */
import { SANDBOX_KEY, SANDBOX_URL, SANDBOX_WEBHOOK_SECRET } from '../../src/shared/config.ts'
import { createSandbox } from '../../src/shared/payments/sandbox.ts'
import { readCommand } from '../dev/command.mjs'

const USAGE = `
npm run sandbox     a payment provider without money, for this machine alone unless SANDBOX_URL says otherwise
  SANDBOX_URL=${SANDBOX_URL}, SANDBOX_WEBHOOK_URL=, SANDBOX_SLOW_MS=1500 (.env.example)
Exit code 1 when it cannot listen. 2: an option or a variable makes no sense.`

const { refuse } = readCommand({ name: 'sandbox', usage: USAGE })
const { SANDBOX_WEBHOOK_URL, SANDBOX_SLOW_MS = '1500' } = process.env
const url = process.env.SANDBOX_URL || SANDBOX_URL
for (const [name, value] of Object.entries({ SANDBOX_URL: url, SANDBOX_WEBHOOK_URL })) {
  if (value && !(URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)))
    refuse(`${name} must be a URL that starts with http://`)
}
if (!/^\d{1,6}$/.test(SANDBOX_SLOW_MS)) refuse(`SANDBOX_SLOW_MS must be a whole number, not "${SANDBOX_SLOW_MS}"`)
const { hostname, port } = new URL(url)
const server = createSandbox({
  secret_key: SANDBOX_KEY,
  webhook_url: SANDBOX_WEBHOOK_URL || undefined,
  webhook_secret: process.env.STRIPE_WEBHOOK_SECRET || SANDBOX_WEBHOOK_SECRET,
  slow_ms: Number(SANDBOX_SLOW_MS),
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(0))
server.on('error', (error) => {
  process.stderr.write(`holdfast: SANDBOX_URL: ${error.message}\n`)
  process.exit(1)
})
server.listen(Number(port || 80), hostname, () => {
  process.stdout.write(`sandbox: card payments without money at ${url}; test tokens are in docs/payments.md\n`)
})
