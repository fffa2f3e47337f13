/** Structured logs on stdout. Lines about a purchase carry purchase, resource and fencing token under these names. */
import { pino } from 'pino'

export type Log = pino.Logger

/**
 * Members of errors that must not be logged: Postgres includes the rejected row, ioredis the command with its arguments, the
 * payment provider its whole response. All three can contain names of customers and tokens of cards.
 */
const CONFIDENTIAL = ['detail', 'where', 'query', 'parameters', 'command', 'raw', 'headers']
const SECRET = [
  ...['error', 'error.cause', 'error.aggregateErrors[*]'].flatMap((at) => CONFIDENTIAL.map((name) => `${at}.${name}`)),
  'row.customer',
  'row.payment',
]

/** pino's number of the level error. */
const ERROR = 50

export interface LogOptions {
  /** where it writes, for tests; default: stdout */
  to?: pino.DestinationStream
  /** called for each line of level error or above */
  onError?(): void
}

export function createLog(level: string, name: string, { to, onError }: LogOptions = {}): Log {
  const options: pino.LoggerOptions = {
    level,
    base: { name, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: SECRET,
    serializers: { error: pino.stdSerializers.errWithCause },
    ...(onError && {
      hooks: {
        logMethod(args, method, level) {
          if (level >= ERROR) onError()
          method.apply(this, args)
        },
      },
    }),
  }
  return to ? pino(options, to) : pino(options)
}
