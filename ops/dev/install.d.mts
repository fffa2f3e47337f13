export const ROOT: string
/**
 * Returns the path of redis-server, and installs it from Debian if this user may. Otherwise throws an error with the
 * command that installs it.
 */
export function ensureRedisServer(log: (line: string) => void): string
/**
 * Returns the path of etcd, and installs Debian's package or unpacks it into the checkout. Otherwise throws an error
 * with the command that installs it.
 */
export function ensureEtcdServer(log: (line: string) => void): string
/**
 * Returns the path of libfaketime, and unpacks Debian's package into the checkout if it is missing. Otherwise throws an
 * error with the command that installs it.
 */
export function ensureFaketime(log: (line: string) => void): string
/**
 * Returns the paths of prometheus and promtool, and unpacks Debian's package into the checkout if they are missing.
 * Otherwise throws an error with the command that installs them.
 */
export function ensurePrometheus(log: (line: string) => void): { prometheus: string; promtool: string }
