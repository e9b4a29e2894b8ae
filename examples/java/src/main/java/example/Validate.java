package example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.tamatar.auth.v1.CreateSessionRequest;
import dev.tamatar.auth.v1.SessionServiceGrpc;
import dev.tamatar.auth.v1.SessionServiceGrpc.SessionServiceBlockingStub;
import dev.tamatar.auth.v1.ValidateSessionRequest;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelRegistry.ProviderNotFoundException;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Validates sessions: {@code ./run --address auth.example.com:50051 --token-file caller.token}
 *
 * <p>Reads session tokens from standard input, one a line, and prints a line for each: the user's
 * address, or why the session is not valid. With --email it reads a password, and signs in first.
 */
public final class Validate {
  private static final String USAGE =
      """
      Usage: ./run --address HOST:PORT [options]
        --address HOST:PORT  the service, or another target of gRPC
        --plaintext          use no TLS, for a service on this machine
        --ca FILE            the CA certificates to trust; the system's by default
        --token-file FILE    the token of this caller
        --email ADDRESS      sign in with this address""";

  private static final List<String> OPTIONS =
      List.of("--address", "--ca", "--token-file", "--email");

  /** gRPC also logs the errors of calls, with stack traces. */
  private static final Logger GRPC_LOG = Logger.getLogger("io.grpc");

  public static void main(String[] arguments) throws IOException {
    GRPC_LOG.setLevel(Level.OFF);
    ManagedChannel channel;
    Map<String, String> options;
    try {
      options = options(arguments);
      channel = connect(options);
    } catch (IllegalArgumentException | IOException error) {
      System.err.println(error.getMessage());
      System.exit(2);
      return;
    }
    SessionServiceBlockingStub sessions = SessionServiceGrpc.newBlockingStub(channel);
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    int exitCode = 0;
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      try {
        System.out.println(validate(sessions, line, options.get("--email")));
      } catch (StatusRuntimeException error) {
        System.out.println(reason(error));
        exitCode = 1;
      }
    }
    channel.shutdownNow();
    System.exit(exitCode);
  }

  private static Map<String, String> options(String[] arguments) {
    Map<String, String> options = new HashMap<>();
    for (int at = 0; at < arguments.length; at++) {
      if (arguments[at].equals("--plaintext")) {
        options.put("--plaintext", "");
      } else if (OPTIONS.contains(arguments[at]) && at + 1 < arguments.length) {
        options.put(arguments[at], arguments[++at]);
      } else {
        throw new IllegalArgumentException(USAGE);
      }
    }
    if (!options.containsKey("--address")) {
      throw new IllegalArgumentException(USAGE);
    }
    if (options.containsKey("--plaintext")
        && (options.containsKey("--ca") || options.containsKey("--token-file"))) {
      throw new IllegalArgumentException(
          "--plaintext cannot protect a token: leave out --ca and --token-file");
    }
    return options;
  }

  /** Returns a channel to all servers that the address stands for. */
  private static ManagedChannel connect(Map<String, String> options) throws IOException {
    try {
      return Grpc.newChannelBuilder(options.get("--address"), credentials(options))
          .defaultServiceConfig(serviceConfig())
          // A server that does not answer a ping is left, and its calls go to the others.
          .keepAliveTime(15, TimeUnit.SECONDS)
          .keepAliveTimeout(4, TimeUnit.SECONDS)
          .build();
    } catch (ProviderNotFoundException error) {
      throw new IOException("Cannot trust " + options.get("--ca") + ": " + error.getMessage());
    }
  }

  private static ChannelCredentials credentials(Map<String, String> options) throws IOException {
    if (options.containsKey("--plaintext")) {
      return InsecureChannelCredentials.create();
    }
    TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
    if (options.containsKey("--ca")) {
      tls.trustManager(new File(options.get("--ca")));
    }
    if (!options.containsKey("--token-file")) {
      return tls.build();
    }
    CallerToken token = new CallerToken(Path.of(options.get("--token-file")));
    return CompositeChannelCredentials.create(tls.build(), token);
  }

  /** Returns the deadlines, the retries, and the balancing over all servers. */
  @SuppressWarnings("unchecked")
  private static Map<String, ?> serviceConfig() throws IOException {
    var resource = Validate.class.getResourceAsStream("/grpc_service_config.json");
    try (Reader reader = new InputStreamReader(resource)) {
      return new Gson().fromJson(reader, Map.class);
    }
  }

  /** Returns the address of the user whose session token, or password, this is. */
  private static String validate(SessionServiceBlockingStub sessions, String secret, String email) {
    String token = secret;
    if (email != null) {
      var signIn = CreateSessionRequest.newBuilder().setEmail(email).setPassword(secret).build();
      token = sessions.createSession(signIn).getSessionToken();
    }
    var request = ValidateSessionRequest.newBuilder().setSessionToken(token).build();
    return sessions.validateSession(request).getUser().getEmail();
  }

  /**
   * Returns the service's reason, which never changes, and the message, which is for people. A call
   * that the service did not answer has a status instead of a reason.
   */
  private static String reason(StatusRuntimeException error) {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          String reason = detail.unpack(ErrorInfo.class).getReason();
          return reason + ": " + error.getStatus().getDescription();
        } catch (InvalidProtocolBufferException ignored) {
          break;
        }
      }
    }
    String message = error.getStatus().getDescription();
    for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
      message = cause.getMessage();
    }
    return error.getStatus().getCode() + ": " + message;
  }

  private Validate() {}
}
