/** Structured logs on stdout. Lines about a purchase carry purchase, resource and fencing token under these names. */
import { pino } from 'pino'

export type Log = pino.Logger

/**
 * Of errors: what Postgres says of a row that it refuses holds the row, ioredis adds the command with its arguments, a
 * payment provider its whole answer. Names of customers and tokens of cards are in all three.
 */
const TELLING = ['detail', 'where', 'query', 'parameters', 'command', 'raw', 'headers']
const SECRET = [
  ...['error', 'error.cause', 'error.aggregateErrors[*]'].flatMap((at) => TELLING.map((name) => `${at}.${name}`)),
  'row.customer',
  'row.payment',
]

/** `to`: a test's; else stdout. */
export function createLog(level: string, name: string, to?: pino.DestinationStream): Log {
  const options: pino.LoggerOptions = {
    level,
    base: { name, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: SECRET,
    serializers: { error: pino.stdSerializers.errWithCause },
  }
  return to ? pino(options, to) : pino(options)
}
