/** holdfast/client against a real API, and the examples of README.md and docs/client.md: they are run as they are written. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createClient, ProblemError } from 'holdfast/client'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { openWorld, until } from '../support/environment.ts'

const world = await openWorld(t)
const api = await world.startApi()
const holdfast = createClient({ url: api.url })
const price = { amount: 100, currency: 'USD' }
let products = 0

async function product(total: number): Promise<string> {
  const id = `client-${++products}`
  await holdfast.put('/api/resources/{type}/{id}', {
    params: { path: { type: 'product', id } },
    body: { name: id, kind: 'units', total, price },
  })
  return `product:${id}`
}
const one = (resource: string) => ({ customer: 'ada', lines: [{ resource, units: 1 }] })
const bought = async (resource: string) =>
  (await holdfast.get('/api/purchases', { params: { query: { resource } } })).data.length

/** Returns a client whose responses pass through `meddle`, and the keys that it has sent. */
function meddled(meddle: (n: number, answer: () => Promise<Response>) => Promise<Response>) {
  const keys: (string | null)[] = []
  const client = createClient({
    url: api.url,
    fetch: (input) => {
      const request = input as Request
      keys.push(request.headers.get('idempotency-key'))
      return meddle(keys.length, () => fetch(request))
    },
  })
  return { client, keys }
}

const busy = () =>
  new Response(JSON.stringify({ code: 'unavailable', status: 503, detail: 'Later.', retryable: true }), {
    status: 503,
    headers: { 'retry-after': '0', 'content-type': 'application/problem+json' },
  })

t.test('response lost after the purchase was queued: the retry with the same key buys once', async (t) => {
  const resource = await product(5)
  const { client, keys } = meddled(async (n, answer) => {
    if (n === 1) return busy()
    const taken = await answer()
    if (n > 2) return taken
    await taken.body?.cancel()
    throw new TypeError('fetch failed')
  })
  t.match(await client.post('/api/purchases', { body: one(resource) }), { status: 'queued' })
  t.equal(keys.length, 3, '503, no answer, an answer')
  t.match(keys[0], /^[0-9a-f-]{36}$/)
  t.equal(new Set(keys).size, 1)
  t.equal(await bought(resource), 1)
  await client.post('/api/purchases', { body: one(resource) })
  t.not(keys[3], keys[0], 'the next one is another purchase')
  const own = { 'idempotency-key': `own-${resource}` }
  const [first, second] = [
    await client.post('/api/purchases', { body: one(resource), params: { header: own } }),
    await client.post('/api/purchases', { body: one(resource), params: { header: own } }),
  ]
  t.equal(first.id, second.id, 'a key of the caller is kept')
})

t.test('request without a key: not retried', async (t) => {
  const { client, keys } = meddled(async () => busy())
  const put = client.put('/api/resources/{type}/{id}', {
    params: { path: { type: 'product', id: 'twice' } },
    body: { name: 'twice', kind: 'units', total: 1, price },
  })
  await t.rejects(put, { name: 'ProblemError', status: 503, code: 'unavailable', retryable: true })
  t.same(keys, [null])
  const impatient = createClient({ url: api.url, retry_for_ms: 0, fetch: async () => busy() })
  await t.rejects(impatient.post('/api/purchases', { body: one('product:1') }), { code: 'unavailable' })
  const proxy = createClient({ url: api.url, fetch: async () => new Response('<html>', { status: 502 }) })
  await t.rejects(proxy.get('/api/resources'), { code: 'http_502', message: /<html>/ }, 'no problem, but an error')
})

t.test('waitFor: polls until settled or timeout; a refusal is a typed error', async (t) => {
  const resource = await product(1)
  const taken = await holdfast.post('/api/purchases', { body: one(resource) })
  await t.rejects(holdfast.waitFor(taken, { timeout_ms: 150 }), { name: 'TimeoutError' }, 'there is no worker')
  const gone = new AbortController()
  setTimeout(() => gone.abort(new Error('the buyer has left')), 20)
  await t.rejects(holdfast.waitFor(taken, { signal: gone.signal }), { message: 'the buyer has left' })
  await world.startWorker()
  t.match(await holdfast.waitFor(taken), { id: taken.id, status: 'confirmed', amount: 100 })
  const wait = { params: { header: { prefer: 'wait=10' } } }
  const late = await holdfast.post('/api/purchases', { body: one(resource), ...wait }).catch((error) => error)
  t.ok(late instanceof ProblemError)
  t.match(late, { status: 409, code: 'sold_out', problem: { available: 0 } })
  // @ts-expect-error: refused by the types, and by the API
  const malformed = holdfast.post('/api/purchases', { body: { customer: 'ada' } })
  await t.rejects(malformed, { code: 'invalid_request' })
  // @ts-expect-error: there is no such path
  const nowhere = holdfast.get('/api/purchase')
  await t.rejects(nowhere, { code: 'not_found' })
  const lease = await holdfast.post('/api/leases', {
    body: { resource: 'job:client', mode: 'exclusive', ttl_ms: 5_000, owner: 'test' },
  })
  const path = { params: { path: { lease_id: lease.lease_id } } }
  t.equal(await holdfast.delete('/api/leases/{lease_id}', path), undefined, 'an answer without a body')
  await t.rejects(holdfast.delete('/api/leases/{lease_id}', path), { status: 410, code: 'lease_lost' })
})

/** Runs a program with the address of this API. */
async function run(command: string, args: string[], stdin = '') {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...world.env, HOLDFAST_URL: api.url },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    out += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    err += chunk
  })
  child.stdin.end(stdin)
  const code = await new Promise((resolve) => child.once('close', resolve))
  return { code, out, err }
}

t.test('examples of README.md and docs/client.md: work as written, in TypeScript and with curl', async (t) => {
  const [readme = '', guide = ''] = ['README.md', 'docs/client.md'].map((path) =>
    readFileSync(join(ROOT, path), 'utf8'),
  )
  const example = readFileSync(join(ROOT, 'docs/examples/buy.ts'), 'utf8')
  t.ok(guide.includes(`\`\`\`ts\n${example}\`\`\``), 'docs/client.md shows docs/examples/buy.ts')
  const put = (type: string, id: string, body: object) =>
    holdfast.put('/api/resources/{type}/{id}', { params: { path: { type, id } }, body: body as never })
  await put('product', '1', { name: 'one', kind: 'units', total: 2, price: { amount: 99_900, currency: 'USD' } })
  await put('driver', '1', { name: 'one', kind: 'calendar' })

  const program = await run(process.execPath, ['--import=tsx', 'docs/examples/buy.ts'])
  t.match(program, { code: 0, out: 'bought for 99900\n' }, program.err)

  const blocks = Array.from(`${readme}\n${guide}`.matchAll(/```sh\n([^`]*curl [^`]*)```/g), ([, text = '']) => text)
  t.equal(blocks.length, 2, 'a purchase and a ride')
  const answers = []
  for (const block of blocks) {
    const { code, out, err } = await run('sh', ['-e'], block.replaceAll('http://localhost:3000', api.url))
    t.equal(code, 0, err)
    answers.push(JSON.parse(out))
  }
  t.match(answers, [
    { status: 'confirmed', amount: 99_900 },
    { status: 'requested', resource: 'driver:1' },
  ])
  const again = await run(process.execPath, ['--import=tsx', 'docs/examples/buy.ts'])
  t.match(again, { code: 0, out: 'rejected: sold_out\n' }, 'and what it says when there is none left')
  await until(async () => (await bought('product:1')) === 3)
})
