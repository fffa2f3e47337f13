/**
 * Reads the command line and the addresses of every command in the same way. `--help` prints a short usage and ends
 * with exit code 0. An argument that cannot be read causes one line on stderr and exit code 2, before anything is
 * started or downloaded. Needs no package, because `npm start` and `npm test` read their options before they install
 * any.
 */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, parseEnv } from 'node:util'
import { identityOf } from './process-registry.mjs'

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const WRONG = 2
const PROTOCOLS = { DATABASE_URL: ['postgres:', 'postgresql:'], REDIS_URL: ['redis:', 'rediss:'] }

/** @see command.d.mts */
export function readCommand({ name, usage, options = {}, words: most = 0, args = process.argv.slice(2) }) {
  const refuse = (message) => {
    process.stderr.write(`${name}: ${message}\n`)
    process.exit(WRONG)
  }
  const { values, positionals: words } = parse({ ...options, help: { type: 'boolean', short: 'h' } }, args, refuse)
  if (values.help) {
    process.stdout.write(`${usage.trim()}\n`)
    process.exit(0)
  }
  if (words.length > most) refuse(`cannot read ${JSON.stringify(words[most])}; --help says what there is`)

  const number = (flag, text, { from = 1, to = 999_999 } = {}) => {
    if (/^\d{1,12}$/.test(text) && Number(text) >= from && Number(text) <= to) return Number(text)
    return refuse(`--${flag} takes a whole number from ${from} to ${to}, not ${JSON.stringify(text)}`)
  }
  return {
    values,
    words,
    refuse,
    whole: (flag, range) => number(flag, values[flag], range),
    wholes: (flag, range) => values[flag].split(',').map((text) => number(flag, text, range)),
    some(flag, known) {
      const asked = values[flag].split(',')
      const unknown = asked.filter((one) => !known.includes(one))
      if (unknown.length > 0) refuse(`--${flag} takes ${known.join(', ')}, not ${unknown.join(', ')}`)
      return known.filter((one) => asked.includes(one))
    },
    address(variable) {
      const value = addressOf(variable)
      if (value === undefined) refuse(`${variable} is not set, and no npm start is running here`)
      return value
    },
    found: addressOf,
    checkAddresses() {
      for (const variable of Object.keys(PROTOCOLS)) check(variable, process.env[variable])
    },
  }

  /** The environment wins over .env, and both over the running `npm start`. */
  function addressOf(variable) {
    return check(variable, process.env[variable] || readEnv(join(ROOT, '.env'))[variable] || runningHere()[variable])
  }

  function check(variable, value) {
    if (!value) return undefined
    const wrong = wrongAddress(variable, value)
    return wrong === undefined ? value : refuse(wrong)
  }
}

function parse(options, args, refuse) {
  try {
    return parseArgs({ args, options, allowPositionals: true })
  } catch (error) {
    const [what = ''] = error.message.split(/\.\s|\n/)
    return refuse(`${what[0]?.toLowerCase()}${what.slice(1)}; --help says what there is`)
  }
}

/** Returns the reason why the value is not an address of its kind, or undefined if it is one. */
function wrongAddress(variable, value) {
  const protocols = PROTOCOLS[variable]
  // Postgres' own clients accept several hosts with ports, which is not a URL: check the first host instead of all.
  const first = variable === 'DATABASE_URL' ? value.replace(/^([^/]+:\/\/(?:[^/@]*@)?[^/?,]*),[^/?]*/, '$1') : value
  if (URL.canParse(first) && protocols.includes(new URL(first).protocol)) return undefined
  // The message does not contain the value, which may include a password.
  return `${variable} must be a URL that starts with ${protocols.map((one) => `${one}//`).join(' or ')}`
}

/** @see command.d.mts */
export function runningHere() {
  const folder = resolve(
    ROOT,
    process.env.HOLDFAST_DATA_DIR || readEnv(join(ROOT, '.env')).HOLDFAST_DATA_DIR || '.data',
  )
  const holder = read(join(folder, 'lock'))
  // A killed `npm start` leaves its file behind, and then nothing or another program listens at its addresses.
  if (holder === undefined || identityOf(Number.parseInt(holder, 10)) !== holder) return {}
  return readEnv(join(folder, 'env'))
}

/** @see command.d.mts */
export function reasonOf(error) {
  if (!(error instanceof Error)) return String(error)
  // Errors of the system or a server have a code. For a name with several addresses, Node's error contains one error
  // per address.
  const [first] = error.errors ?? [error]
  const of = first.cause?.code ? first.cause : first
  return of.code ? of.message || of.code : error.stack
}

const readEnv = (path) => parseEnv(read(path) ?? '')

function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
