/** src/api/plugins/errors.ts: every error becomes a problem, and an error of the client is never a 5xx. */
import { Agent, request } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import Fastify from 'fastify'
import pino from 'pino'
import t from 'tap'
import { answerErrors, refuseConnection, toProblem } from '../../../src/api/plugins/errors.ts'
import { compileValidators, parseBodies } from '../../../src/api/plugins/validation.ts'
import { UnavailableError } from '../../../src/shared/breaker.ts'
import { LeaseLostError, LockBusyError } from '../../../src/shared/locks/api.ts'
import { Problem } from '../../../src/shared/problem.ts'

/** Returns a server whose only route accepts `{ units: integer }`, and throws `thrown` if it is given. */
async function serve(t: Tap, thrown?: unknown) {
  const app = Fastify({ clientErrorHandler: refuseConnection })
  t.teardown(() => app.close())
  compileValidators(app)
  answerErrors(app, pino({ enabled: false }), () => {})
  parseBodies(app)
  const body = { type: 'object', required: ['units'], properties: { units: { type: 'integer' } } }
  app.post('/units', { schema: { body } }, async () => {
    if (thrown !== undefined) throw thrown
    return {}
  })
  await app.ready()
  return app
}
type Tap = { teardown(step: () => unknown): void }

const SERVER_ERRORS: [name: string, error: unknown, status: number, code: string, retryable: boolean][] = [
  ['a problem', new Problem(409, 'sold_out', 'Sold out.'), 409, 'sold_out', false],
  ['Postgres is away', new UnavailableError('postgres', 'timed out'), 503, 'unavailable', true],
  ['a lock is busy', new LockBusyError('a:1', { holder: 'b', waiting: 0, retry_after_ms: 5 }), 409, 'lock_busy', true],
  ['a lease was lost', new LeaseLostError('a:1', 7, 'expired'), 503, 'lease_lost', true],
  ['an error of our own', new TypeError('x is undefined'), 500, 'internal_error', false],
  ['something that is no error', 'text', 500, 'internal_error', false],
]
for (const [name, error, status, code, retryable] of SERVER_ERRORS) {
  t.test(`${name}: ${status} ${code}`, async (t) => {
    const app = await serve(t, error)
    const answer = await app.inject({ method: 'POST', url: '/units', payload: { units: 1 } })
    t.match(answer, { statusCode: status, headers: { 'content-type': /^application\/problem\+json/ } })
    t.match(answer.json(), { status, code, retryable, instance: '/units' })
    t.equal(answer.headers['retry-after'] !== undefined, retryable, 'Retry-After')
  })
}

t.test('internal error: the answer does not contain the cause', async (t) => {
  t.notMatch(toProblem(new Error('password=secret')).message, /secret/)
})

const REFUSED: [name: string, payload: string, headers: Record<string, string>, status: number, field: string][] = [
  ['a wrong type', '{"units":"2"}', {}, 400, 'units'],
  ['a missing field', '{}', {}, 400, 'units'],
  ['no JSON', '{', {}, 400, 'body'],
  ['no body', '', {}, 400, 'body'],
  ['a body that is too large', `"${'x'.repeat(2 ** 20)}"`, {}, 413, 'body'],
  ['another media type', '<units/>', { 'content-type': 'text/xml' }, 415, 'Content-Type'],
  ['a compressed body', '{"units":1}', { 'content-encoding': 'gzip' }, 415, 'Content-Encoding'],
]
for (const [name, payload, headers, status, field] of REFUSED) {
  t.test(`${name}: ${status} that names ${field}`, async (t) => {
    const app = await serve(t)
    const json = { 'content-type': 'application/json', ...headers }
    const answer = await app.inject({ method: 'POST', url: '/units', headers: json, payload })
    t.equal(answer.statusCode, status)
    t.match(answer.json().errors, [{ field }])
  })
}

t.test('bytes that are not HTTP: answered on the socket, and the connection is closed', async (t) => {
  const app = await serve(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write('HELLO\r\n\r\n')
  let answer = ''
  for await (const chunk of socket) answer += chunk
  t.match(answer, /^HTTP\/1\.1 400 Bad Request\r\n/)
  t.match(JSON.parse(answer.split('\r\n\r\n')[1] ?? ''), { code: 'invalid_request', detail: 'Malformed HTTP request.' })
})

t.test(
  'a client that sends a body that is too large to its end: it gets the 413, and may use the connection again',
  async (t) => {
    const app = await serve(t)
    await app.listen({ host: '127.0.0.1', port: 0 })
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const post = (body: string) =>
      new Promise<{ status: number | undefined; port: number | undefined }>((resolve, reject) => {
        const { port } = app.server.address() as AddressInfo
        const headers = { 'content-type': 'application/json', 'content-length': body.length }
        const sent = request({ agent, port, host: '127.0.0.1', path: '/units', method: 'POST', headers }, (answer) => {
          const { statusCode: status, socket } = answer
          answer.resume().on('end', () => resolve({ status, port: socket.localPort }))
        })
        sent.on('error', reject)
        // The server answers before the rest is sent.
        sent.write(body.slice(0, 100_000))
        setTimeout(() => sent.end(body.slice(100_000)), 100)
      })
    const first = await post(`"${'x'.repeat(2 ** 21)}"`)
    const second = await post('{"units": 1}')
    t.match([first, second], [{ status: 413 }, { status: 200 }])
    t.equal(second.port, first.port, 'on the same connection')
  },
)
