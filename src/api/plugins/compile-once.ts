/**
 * Compilers of schemas that compile each schema once. Of 655 response schemas 554 were the same one, `Problem`; to compile
 * it 554 times took most of the time that an API needs to start. Invariant: schemas with the same
 * text compile to the same function, whatever the route.
 */
import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import type { FastifyInstance, FastifySerializerCompiler } from 'fastify'

export function compileOnce<Route extends { schema?: unknown }, Compiled>(
  compile: (route: Route) => Compiled,
): (route: Route) => Compiled {
  const compiled = new Map<string, Compiled>()
  return (route) => {
    const text = JSON.stringify(route.schema)
    const made = compiled.get(text) ?? compile(route)
    compiled.set(text, made)
    return made
  }
}

/** Installs Fastify's default compiler of serializers. Call it when the app has every schema that responses refer to. */
export function compileSerializers(app: FastifyInstance): void {
  const compile = SerializerSelector()(app.getSchemas()) as FastifySerializerCompiler<unknown>
  app.setSerializerCompiler(compileOnce(compile))
}
