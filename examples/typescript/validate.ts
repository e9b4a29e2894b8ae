// Validates sessions: ./run --address auth.example.com:50051 --token-file caller.token
//
// Reads session tokens from standard input, one a line, and prints a line for each: the user's
// address, or why the session is not valid. With --email it reads a password, and signs in first.
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Client, Metadata, credentials, status } from "@grpc/grpc-js";
import type { ChannelCredentials, ServiceError } from "@grpc/grpc-js";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import { SessionService } from "./gen/tamatar/auth/v1/session_service_pb.js";

interface Options {
  address: string;
  plaintext: boolean;
  ca?: string;
  "token-file"?: string;
  email?: string;
}

const USAGE = `Usage: ./run --address HOST:PORT [options]
  --address HOST:PORT  the service, or another target of gRPC
  --plaintext          use no TLS, for a service on this machine
  --ca FILE            the CA certificates to trust; the system's by default
  --token-file FILE    the token of this caller
  --email ADDRESS      sign in with this address`;

function options(): Options {
  const { values } = parseArgs({
    options: {
      address: { type: "string" },
      plaintext: { type: "boolean", default: false },
      ca: { type: "string" },
      "token-file": { type: "string" },
      email: { type: "string" },
    },
  });
  const { address, ...others } = values;
  if (!address) throw new Error(USAGE);
  if (others.plaintext && (others.ca || others["token-file"])) {
    throw new Error("--plaintext cannot protect a token: leave out --ca and --token-file");
  }
  return { address, ...others };
}

/** Returns a client that calls all servers of the address in turn, with deadlines and retries. */
function connect({ address, plaintext, ca, "token-file": tokenFile }: Options): Client {
  const config = new URL("../gen/grpc_service_config.json", import.meta.url);
  return new Client(address, plaintext ? credentials.createInsecure() : secure(ca, tokenFile), {
    "grpc.service_config": readFileSync(config, "utf8"),
    // A server that does not answer a ping is left, and its calls go to the others.
    "grpc.keepalive_time_ms": 15_000,
    "grpc.keepalive_timeout_ms": 4_000,
  });
}

/** Returns the content of a file of certificates. TLS would ignore a file without any. */
function certificates(file: string): Buffer {
  const content = readFileSync(file);
  try {
    new X509Certificate(content);
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`);
  }
  return content;
}

function secure(ca?: string, tokenFile?: string): ChannelCredentials {
  const tls = credentials.createSsl(ca ? certificates(ca) : null);
  if (!tokenFile) return tls;
  // The file is read for each call, so that a rotated token is used at once.
  const token = credentials.createFromMetadataGenerator((_, callback) => {
    try {
      const metadata = new Metadata();
      metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
      callback(null, metadata);
    } catch (error) {
      callback(error as Error);
    }
  });
  return credentials.combineChannelCredentials(tls, token);
}

/** Calls a method. */
function call<I extends DescMessage, O extends DescMessage>(
  client: Client,
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
): Promise<MessageShape<O>> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest<MessageShape<I>, MessageShape<O>>(
      `/${method.parent.typeName}/${method.name}`,
      (message) => Buffer.from(toBinary(method.input, message)),
      (bytes) => fromBinary(method.output, bytes),
      create(method.input, request),
      (error, response) => (response ? resolve(response) : reject(error)),
    );
  });
}

/** Returns the address of the user whose session token, or password, this is. */
async function validate(client: Client, secret: string, email?: string): Promise<string> {
  const { createSession, validateSession } = SessionService.method;
  let sessionToken = secret;
  if (email) {
    const identifier = { case: "email", value: email } as const;
    ({ sessionToken } = await call(client, createSession, { identifier, password: secret }));
  }
  const { user } = await call(client, validateSession, { sessionToken });
  return user?.email ?? "";
}

/**
 * Returns the service's reason, which never changes, and the message, which is for people. A call
 * that the service did not answer has a status instead of a reason.
 */
function reason(error: ServiceError): string {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = packed instanceof Buffer ? fromBinary(StatusSchema, packed).details : [];
  const infos = details.map((detail) => anyUnpack(detail, ErrorInfoSchema));
  return `${infos.find((info) => info)?.reason ?? status[error.code]}: ${error.details.replace(/\s+/g, " ")}`;
}

async function main(): Promise<void> {
  const given = options();
  const client = connect(given);
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      console.log(await validate(client, line, given.email));
    } catch (error) {
      console.log(reason(error as ServiceError));
      process.exitCode = 1;
    }
  }
  client.close();
}

main().catch((error: NodeJS.ErrnoException) => {
  console.error(error.message);
  if (error.code?.startsWith("ERR_PARSE_ARGS")) console.error(USAGE);
  process.exitCode = 2;
});
