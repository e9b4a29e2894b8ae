// Prints the user of a session token: node build/validate.js http://127.0.0.1:50051 tms_…
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { SessionService } from "./gen/tamatar/auth/v1/session_service_pb.js";

const [baseUrl, sessionToken] = process.argv.slice(2);
const sessions = createClient(SessionService, createGrpcTransport({ baseUrl }));
try {
  const { user } = await sessions.validateSession({ sessionToken }, { timeoutMs: 5000 });
  console.log(user?.email);
} catch (error) {
  const refused = ConnectError.from(error);
  const [info] = refused.findDetails(ErrorInfoSchema);
  console.log(Code[refused.code], info?.reason);
}
