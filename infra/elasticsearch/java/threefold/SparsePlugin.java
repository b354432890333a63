package threefold;

import java.io.IOException;
import java.util.Collection;
import java.util.List;
import java.util.function.Predicate;
import java.util.function.Supplier;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.plugins.SearchPlugin;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.xcontent.XContentBuilder;
import org.elasticsearch.xpack.core.ml.search.SparseVectorQueryBuilder;

/** What the published packages leave out: the sparse_vector query's registration, and the answer to GET /. */
public final class SparsePlugin extends Plugin implements SearchPlugin, ActionPlugin {
    @Override
    public List<QuerySpec<?>> getQueries() {
        return List.of(new QuerySpec<>(
                SparseVectorQueryBuilder.NAME,
                SparseVectorQueryBuilder::new,
                SparseVectorQueryBuilder::fromXContent));
    }

    @Override
    public Collection<RestHandler> getRestHandlers(
            RestHandlersServices services, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) {
        return List.of(new MainHandler(nodes));
    }

    private static final class MainHandler extends BaseRestHandler {
        private final Supplier<DiscoveryNodes> nodes;

        MainHandler(Supplier<DiscoveryNodes> nodes) {
            this.nodes = nodes;
        }

        @Override
        public String getName() {
            return "threefold_main";
        }

        @Override
        public List<Route> routes() {
            return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
        }

        @Override
        protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
            return channel -> {
                try (XContentBuilder body = channel.newBuilder()) {
                    channel.sendResponse(new RestResponse(RestStatus.OK, described(body)));
                }
            };
        }

        private XContentBuilder described(XContentBuilder body) throws IOException {
            return body.startObject()
                    .field("name", nodes.get().getLocalNode().getName())
                    .field("cluster_name", "threefold")
                    .field("cluster_uuid", nodes.get().getLocalNode().getEphemeralId())
                    .startObject("version")
                    .field("number", Build.current().version())
                    .field("build_flavor", "default")
                    .field("build_type", "published-packages")
                    .endObject()
                    .field("tagline", "You Know, for Search")
                    .endObject();
        }
    }
}
