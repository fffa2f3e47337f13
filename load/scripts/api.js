// Shared by the k6 scripts in this folder: the address of the API, and requests to it. It runs in k6, which is not
// Node.
import http from 'k6/http'

const BASE_URL = __ENV.BASE_URL || 'http://127.0.0.1:3000'
const API_KEY = __ENV.API_KEY || ''

/**
 * Returns a whole number from the run's variables (`-e RATE=500`, in the Node runner also `--rate=500`), or `usual`.
 * @param {string} name
 * @param {number} usual
 */
export function intEnv(name, usual) {
  const text = __ENV[name]
  if (text === undefined || text === '') return usual
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error(`${name} is a whole number from 1, not ${text}`)
  return Number(text)
}

/** Returns an id of this run, so that no run finds the data of another. */
export const runId = () => `${Date.now().toString(36)}-${Math.floor(Math.random() * 1e9).toString(36)}`

/**
 * Sends a request. `name`: the tag that groups requests in figures, because their addresses contain ids.
 * @param {string} name
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @param {{ [name: string]: string }} [headers]
 */
export async function request(name, method, path, body, headers) {
  return await http.asyncRequest(method, `${BASE_URL}${path}`, body === undefined ? null : JSON.stringify(body), {
    headers: Object.assign(
      body === undefined ? {} : { 'content-type': 'application/json' },
      API_KEY ? { 'x-api-key': API_KEY } : {},
      headers,
    ),
    tags: { name },
    timeout: '60s',
  })
}

/**
 * Sends a request in setup or teardown. Any other status ends the run.
 * @param {number} status
 * @param {Parameters<typeof request>} args
 * @returns {Promise<any>} the answer's body
 */
export async function requestOk(status, ...args) {
  const answer = await request(...args)
  if (answer.status === status) return answer.json()
  throw new Error(`${args[1]} ${BASE_URL}${args[2]} was answered ${answer.status}: ${answer.error || answer.body}`)
}

/**
 * @param {string} ref `type:id`
 * @param {number} total
 * @param {number} [price] minor units
 */
export async function createProduct(ref, total, price = 100) {
  const body = { name: ref, kind: 'units', total, price: { amount: price, currency: 'USD' } }
  await requestOk(201, 'setup', 'PUT', `/api/resources/${ref.replace(':', '/')}`, body)
}

/** @param {string} ref `type:id` */
export async function createCalendar(ref) {
  await requestOk(201, 'setup', 'PUT', `/api/resources/${ref.replace(':', '/')}`, { name: ref, kind: 'calendar' })
}

/** @param {string} ref `type:id` */
export const getResource = (ref) => requestOk(200, 'teardown', 'GET', `/api/resources/${ref.replace(':', '/')}`)

/**
 * Returns the HTTP status of an answer with the `status` of its purchase or booking, or with the `code` of its problem.
 * @param {{ status: number, body: unknown, json(): any }} answer
 * @returns {string}
 */
export function outcome(answer) {
  if (answer.status === 0 || !answer.body) return `${answer.status}`
  const { code, status } = answer.json()
  return `${answer.status} ${code || status}`
}
